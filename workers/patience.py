"""Repeating a statement while the database is away."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from omni_jobs import telemetry
from omni_jobs.store.database import is_outage

log = telemetry.get_logger()
T = TypeVar("T")

PATIENCE_S = 120.0


def patient(action: Callable[[], T], stop: threading.Event | None = None) -> T:
    """Repeat it until the database is back: a commit whose outcome is unknown is settled by repeating it."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return action()
        except Exception as error:
            if not is_outage(error) or time.monotonic() > end or (stop is not None and stop.is_set()):
                raise
            log.warning("database.away", error=str(error)[:200])
            time.sleep(0.2)
