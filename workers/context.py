"""What a handler is given besides its unit: the parts it may use, its cancel flag, and where to report progress."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine

from omni_jobs.blobs import BlobStore
from omni_jobs.settings import Settings
from workers.backends.backend import Backend, Identity


class CancelledUnit(Exception):
    """The unit is not wanted any more here: its job was cancelled, or the worker drains."""


class NotNow(Exception):
    """The unit must wait for something outside, such as free disk; it is released and costs nothing."""

    def __init__(self, reason: str, delay_s: float) -> None:
        super().__init__(reason)
        self.delay_s = delay_s


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a worker process, shared by its units.

    Attributes:
        identity: who will answer the units of this installation; part of the key under which answers are reused.
        backend: the one that answers; only in the gpu pool.
    """

    settings: Settings
    db: Engine
    blobs: BlobStore
    scratch: Path
    identity: Identity
    backend: Backend | None = None


@dataclass(slots=True)
class Context:
    """One unit at work. `progress` is read by the heartbeat: it must move while the unit is alive."""

    parts: Parts
    cancel: threading.Event = field(default_factory=threading.Event)
    progress: float = 0.0
    moves: int = 0

    def report(self, progress: float) -> None:
        """Say how far the unit is, 0..1; raises `CancelledUnit` when it is not wanted any more."""
        self.progress = min(max(progress, self.progress), 1.0)
        self.moves += 1
        self.check()

    def part(self, start: float, end: float) -> Callable[[float], None]:
        """A reporter for a stage that covers `start`..`end` of the unit."""
        return lambda progress: self.report(start + (end - start) * progress)

    def check(self) -> None:
        if self.cancel.is_set():
            raise CancelledUnit
