"""The doors to the database: the reader's, who may only read, and the owner's; and what comes back.

An address holds a password: it is checked before anybody could quote it in an error, and never printed but by `--dsn`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

from omni_jobs.errors import OmniError, Refused, Unavailable, UsageError

if TYPE_CHECKING:
    import psycopg

    from omni_jobs.settings import Settings

ROLE = "omni_read"
SCHEMES = ("postgresql", "postgres")
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
        yield require_postgres(given, "OMNI_SQL_URL")
        return
    settings = read_settings()
    if settings.database_url:
        yield _as_reader(settings, require_postgres(settings.database_url, "OMNI_DATABASE_URL"))
        return
    if settings.api_url:
        raise Refused("the database of a remote API is reached by its own address: set OMNI_SQL_URL")
    with connected(settings, start=start) as stack:
        yield _as_reader(settings, stack.state.database_url)


@contextmanager
def owner_url() -> Iterator[str]:
    """The address of the owner, for what only an administrator does: OMNI_DATABASE_URL, else the embedded server.

    Raises:
        Unavailable: there is none, and it does not start.
    """
    from omni_jobs.cli.reach import connected, read_settings

    settings = read_settings()
    if settings.database_url:
        yield require_postgres(settings.database_url, "OMNI_DATABASE_URL")
        return
    if settings.api_url:
        raise Refused("the database of a remote API is reached by its own address: set OMNI_DATABASE_URL")
    with connected(settings, start=True) as stack:
        yield stack.state.database_url


def require_postgres(url: str, name: str) -> str:
    """
    Raises:
        UsageError: no address of a PostgreSQL server. It does not quote it.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    scheme = url.partition("://")[0].partition("+")[0] if "://" in url else ""
    try:
        if scheme in SCHEMES:
            conninfo_to_dict(_driver_url(url))
            urlsplit(url)
            return url
    except (psycopg.Error, ValueError):
        pass
    found = f"{scheme}://..." if scheme.isalnum() and scheme not in SCHEMES else "something else"
    raise UsageError(f"{name}: expected an address such as postgresql://user@host:5432/name, got {found}")


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
    with database_errors():
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
