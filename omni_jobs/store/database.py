"""The connection to PostgreSQL, and how Python values become parameters."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from uuid_utils import compat as uuids

from omni_jobs.errors import UsageError

IDLE_IN_TRANSACTION_MS = 10_000
NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")


# A worker's statements each touch a few rows by their keys, and are planned once: what is right of a table of ten rows
# must still be right of one of ten million, so plans that read a whole table are out.
BY_KEYS = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"


def open_database(
    url: str, *, size: int = 8, application: str = "omni-jobs", ping: bool = True, by_keys: bool = False
) -> Engine:
    """An engine on `postgresql://...`; connections are made when first used.

    Args:
        ping: ask a pooled connection whether it lives before each use; whoever repeats statements need not.
        by_keys: only for statements that find every row by an index.

    Raises:
        UsageError: not the URL of a PostgreSQL database.
    """
    match = re.match(r"postgres(?:ql)?(?:\+psycopg)?://", url)
    if not match:
        raise UsageError(f"expected a database URL such as postgresql://user@host/name, got {url.split('@')[-1]!r}")
    return create_engine(
        "postgresql+psycopg://" + url[match.end() :],
        pool_size=size,
        max_overflow=0,  # what is made beyond the size is closed after each use, and making one costs ten statements
        pool_use_lifo=True,
        pool_pre_ping=ping,
        pool_recycle=1800,
        # Parameters hold secrets and whole transcripts: neither belongs into an error's text.
        hide_parameters=True,
        connect_args={
            "application_name": application,
            "connect_timeout": 10,
            # A server whose machine is gone is noticed within half a minute.
            "keepalives_idle": 10,
            "tcp_user_timeout": 30_000,
            # A process that is frozen inside a transaction loses it, and with it the jobs that all others wait for.
            "options": f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MS} -c jit=off"
            + (f" {BY_KEYS}" if by_keys else ""),
        },
    )


@contextmanager
def auto(db: Engine | Connection) -> Iterator[Connection]:
    """A connection on which each statement is its own transaction: one round trip. One that is had already is kept."""
    if isinstance(db, Connection):
        yield db
        return
    with db.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def new_id() -> str:
    """A UUIDv7: its order is the order of creation."""
    return str(uuids.uuid7())


def jsonb(value: Any) -> Jsonb:
    """A jsonb parameter, less what PostgreSQL cannot keep (NUL, lone surrogates, numbers that are none)."""
    return Jsonb(value, dumps=_dumps)


def _dumps(value: Any) -> bytes:
    """As JSON; only what cannot be kept is worth a walk through all of it."""
    with suppress(ValueError):
        said = json.dumps(value, ensure_ascii=False, allow_nan=False)
        if "\\u0000" not in said:
            return said.encode()
    return json.dumps(storable(value), ensure_ascii=False).encode()


def storable(value: Any) -> Any:
    match value:
        case str():
            return NOT_STORABLE.sub("", value)
        case dict():
            return {storable(key): storable(item) for key, item in value.items()}
        case list() | tuple():
            return [storable(item) for item in value]
        case float() if value != value or value in (float("inf"), float("-inf")):
            return None
        case _:
            return value


def rows(tx: Connection, sql: str, **params: Any) -> list[dict[str, Any]]:
    """Run one statement and return its rows as dicts."""
    return execute(tx, sql, params).fetchall()


def row(tx: Connection, sql: str, **params: Any) -> dict[str, Any] | None:
    return execute(tx, sql, params).fetchone()


def run(tx: Connection, sql: str, **params: Any) -> int:
    """Run one statement and return how many rows it touched."""
    return execute(tx, sql, params).rowcount


def execute(tx: Connection, sql: str, params: dict[str, Any]) -> psycopg.Cursor[dict[str, Any]]:
    """Run one statement by the driver itself: SQLAlchemy's way to it costs more CPU than the statement.

    Raises:
        DBAPIError: as SQLAlchemy would say it. After a disconnect the idle connections, which went with it, are gone.
    """
    driver = tx.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    try:
        return driver.cursor(row_factory=dict_row).execute(driver_sql(sql), params)
    except psycopg.Error as error:
        if driver.closed:
            tx.invalidate()
            tx.engine.dispose()
        raise DBAPIError.instance(
            sql, None, error, psycopg.Error, hide_parameters=True, connection_invalidated=driver.closed
        ) from error


@lru_cache(maxsize=1000)
def driver_sql(sql: str) -> bytes:
    """A statement as the driver wants it: `:name` is `%(name)s`."""
    return re.sub(r"(?<![:\w]):([a-z_]\w*)", r"%(\1)s", sql.replace("%", "%%")).encode()


# What passes by itself: connections, shutdown and start of the server, too many clients, deadlock, serialisation, a
# transaction that this process slept in.
PASSING = re.compile(r"08...|57P0[123]|53300|40P01|40001|25P03")


def is_outage(error: BaseException) -> bool:
    """Whether the database went away, so that the same call may be repeated later. What it refused stays refused."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return PASSING.fullmatch(state) is not None
    # Without a code it never reached the server, or the server never answered.
    return error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
