"""The read-only door to the database: who asks, with which password, and what comes back."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

from omni_jobs.errors import OmniError, Refused, Unavailable

if TYPE_CHECKING:
    import psycopg

    from omni_jobs.settings import Settings

ROLE = "omni_read"
TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 10


class SqlError(OmniError):
    """The server refused a statement; the message is the server's, with the place."""


@contextmanager
def reader_url(*, start: bool | None = None) -> Iterator[str]:
    """A connection string of a role that may only read; whatever it needs runs while this is open.

    Raises:
        Unavailable: no database, or nothing runs.
        Refused: the role cannot be given a password, so somebody has to say OMNI_SQL_URL.
    """
    from omni_jobs.cli.reach import connected, read_settings

    if given := os.environ.get("OMNI_SQL_URL"):
        yield given
        return
    settings = read_settings()
    if settings.database_url:
        yield _as_reader(settings, settings.database_url)
        return
    if settings.api_url:
        raise Refused("the database of a remote API is reached by its own address: set OMNI_SQL_URL")
    with connected(settings, start=start) as stack:
        yield _as_reader(settings, stack.state.database_url)


@contextmanager
def session(url: str) -> Iterator["psycopg.Connection[Sequence[Any]]"]:
    """A read-only transaction on that address."""
    import psycopg

    options = f"-c statement_timeout={TIMEOUT_S * 1000} -c default_transaction_read_only=on"
    with database_errors():
        connection = psycopg.connect(
            _driver_url(url), connect_timeout=CONNECT_TIMEOUT_S, application_name="omni-jobs sql", options=options
        )
        with connection:
            connection.read_only = True
            yield connection


@contextmanager
def database_errors() -> Iterator[None]:
    """What PostgreSQL says, as our errors."""
    import psycopg
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        raise _error_of(error.orig) from error
    except psycopg.Error as error:
        raise _error_of(error) from error


def _error_of(error: BaseException | None) -> OmniError:
    import psycopg

    text = str(error).strip()
    # Without an SQLSTATE the connection failed. 08: it was lost; 57P: the server ends or starts.
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    lost = not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    if lost or (state or "").startswith(("08", "57P")):
        return Unavailable(f"the database does not answer: {text}")
    return SqlError(text)


def _as_reader(settings: "Settings", owner: str) -> str:
    import psycopg

    from omni_jobs.embedded.home import Home

    home = Home(settings.home)
    home.create()
    password = home.secret("reader")
    url = with_login(owner, ROLE, password)
    try:
        psycopg.connect(_driver_url(url), connect_timeout=CONNECT_TIMEOUT_S).close()
    except psycopg.OperationalError:
        # It has no password yet, or another one. (The error of a refused login carries no SQLSTATE.)
        _let_in(owner, password)
    return url


def _let_in(owner: str, password: str) -> None:
    from psycopg import errors

    from omni_jobs.store.database import open_database
    from omni_jobs.store.schema import give_reader

    db = open_database(owner, size=1)
    try:
        with database_errors():
            give_reader(db, password)
    except SqlError as error:
        match error.__cause__:
            case errors.UndefinedObject():
                raise Refused(f"the database has no role {ROLE}: run `omni-jobs migrate`") from error
            case errors.InsufficientPrivilege():
                message = f"this login may not give {ROLE} a password: set OMNI_SQL_URL to one that may read omni_v1"
                raise Refused(message) from error
        raise
    finally:
        db.dispose()


def with_login(url: str, user: str, password: str) -> str:
    """The same database, for another user."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{host}"))


def _driver_url(url: str) -> str:
    """Without SQLAlchemy's `+psycopg`."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}{mark}{rest}"
