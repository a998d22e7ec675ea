"""Listens to the store: every statement before it goes to the server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from omni_jobs.store import database


@contextmanager
def statements(tell: Callable[[str, dict[str, Any]], object]) -> Iterator[None]:
    """Tell each statement, as the driver gets it, and its parameters."""
    execute = database.execute

    def telling(tx: Any, sql: str, params: dict[str, Any]) -> Any:
        tell(database.driver_sql(sql).decode(), params)
        return execute(tx, sql, params)

    with patch.object(database, "execute", telling):
        yield
