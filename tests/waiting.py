"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable


def eventually(holds: Callable[[], object], timeout_s: float = 5.0) -> bool:
    """Whether `holds` becomes true in time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
