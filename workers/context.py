"""What a handler is given besides its unit: the parts it may use, its cancel flag, and where to report progress."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from omni_jobs.blobs import BlobStore
from omni_jobs.errors import Problem
from omni_jobs.job import Outcome, Pool
from omni_jobs.settings import Settings
from omni_jobs.store.attempts import Ending, InTransaction
from omni_jobs.store.claims import Claimed
from omni_jobs.store.units import NewUnit
from workers.backends.backend import Backend, Identity
from workers.endings import Endings
from workers.flight import Flight


class CancelledUnit(Exception):
    """The unit is not wanted any more here: its job was cancelled, or the worker drains."""


class NotNow(Exception):
    """The unit must wait for something outside, such as free disk; it is released and costs nothing."""

    def __init__(self, reason: str, delay_s: float) -> None:
        super().__init__(reason)
        self.delay_s = delay_s


class Rejected(Exception):
    """A gate refused the answer, None where it could not be read; `last`: there is no other way of asking."""

    def __init__(self, gate: str, answer: dict[str, Any] | None, problem: Problem, *, last: bool) -> None:
        super().__init__(problem.message)
        self.gate, self.answer, self.problem, self.last = gate, answer, problem, last


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a worker process, shared by its units.

    Attributes:
        identity: who will answer the units of this installation; part of the key under which answers are reused.
        endings: where attempts end.
        flight: what this process works on, for whoever finds it dead.
        backend: the one that answers; only in the gpu pool.
    """

    settings: Settings
    db: Engine
    blobs: BlobStore
    scratch: Path
    identity: Identity
    endings: Endings
    flight: Flight
    backend: Backend | None = None


@dataclass(slots=True)
class Context:
    """One unit at work. `progress` is read by the heartbeat: it must move while the unit is alive."""

    parts: Parts
    unit: Claimed
    cancel: threading.Event = field(default_factory=threading.Event)
    stalled: bool = False  # it was cancelled because it stood still
    progress: float = 0.0
    moves: int = 0
    moved_at: float = field(default_factory=time.monotonic)

    def still_s(self) -> float:
        """Seconds since it last reported."""
        return time.monotonic() - self.moved_at

    def report(self, progress: float) -> None:
        """Say how far the unit is, 0..1; raises `CancelledUnit` when it is not wanted any more."""
        self.progress = min(max(progress, self.progress), 1.0)
        self.moves += 1
        self.moved_at = time.monotonic()
        self.check()

    def part(self, start: float, end: float) -> Callable[[float], None]:
        """A reporter for a stage that covers `start`..`end` of the unit."""
        return lambda progress: self.report(start + (end - start) * progress)

    def check(self) -> None:
        if self.cancel.is_set():
            raise CancelledUnit

    def finish(
        self, answer: dict[str, Any] | None, *, follow: Sequence[NewUnit] = (), also: InTransaction | None = None
    ) -> set[Pool]:
        """Store the unit's answer with what follows from it; returns the pools that have got work.

        Raises:
            Fenced: the unit is no longer ours.
        """
        return self.parts.endings.end(Ending(self.unit, Outcome.SUCCEEDED, answer, tuple(follow), also))
