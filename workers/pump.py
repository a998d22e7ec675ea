"""Claims units for one pool, runs them in threads, beats for them, and ends each attempt one way.

Threads: one that claims, one that beats and asks what was cancelled, and one for each running unit. A wake-up only
sets a flag. Guarantees: an attempt is ended exactly once, or the lease ends it; a drain hands back what it cannot end.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from structlog.contextvars import bound_contextvars

from omni_jobs import telemetry
from omni_jobs.broker import Bell
from omni_jobs.errors import Unavailable, problem_of
from omni_jobs.job import Pool, UnitKind
from omni_jobs.store import jobs, units, workers
from omni_jobs.store.database import is_outage
from omni_jobs.store.units import Claimed, Fenced
from workers.context import CancelledUnit, Context, NotNow, Parts

log = telemetry.get_logger()
Handler = Callable[[Claimed, Context], set[Pool]]
T = TypeVar("T")

CANCEL_S = 0.5  # how often cancelled jobs are asked for
IDLE_S = 5.0  # an idle pump looks for work so often even if nobody wakes it
PATIENCE_S = 120.0  # how long a statement is repeated while the database is away


class Pump:
    """The work of one pool in one process."""

    def __init__(
        self,
        parts: Parts,
        bell: Bell,
        pool: Pool,
        handlers: Mapping[UnitKind, Handler],
        *,
        worker_id: str,
        slots: int,
    ) -> None:
        self._parts, self._bell, self._pool, self._handlers = parts, bell, pool, handlers
        self._worker_id, self._slots = worker_id, slots
        self._running: dict[str, tuple[Claimed, Context]] = {}
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._draining = threading.Event()
        self._closed = threading.Event()
        self._moved = (0, time.monotonic())
        self._threads = [
            threading.Thread(target=self._claim_loop, name="claim", daemon=True),
            threading.Thread(target=self._beat_loop, name="beat", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self.wake()

    def wake(self) -> None:
        """There may be work; returns at once."""
        self._woken.set()

    def drain(self) -> None:
        """Claim nothing more."""
        self._draining.set()
        self._woken.set()

    def close(self, grace_s: float) -> None:
        """Drain: running units get `grace_s`, then they are cancelled and handed back; returns when all have ended."""
        self.drain()
        self._wait_idle(grace_s)
        with self._lock:
            for _, context in self._running.values():
                context.cancel.set()
        self._wait_idle(grace_s + 10.0)
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout=2 * CANCEL_S)

    def _wait_idle(self, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while self._running and time.monotonic() < end:
            time.sleep(0.05)

    # Claiming

    def _claim_loop(self) -> None:
        while not self._closed.is_set() and not self._draining.is_set():
            self._woken.wait(IDLE_S)
            self._woken.clear()
            try:
                while self._claim():
                    pass
            except Exception as error:
                log.warning("claim.failed", error=str(error)[:300])
                self._draining.wait(1.0)
                self._woken.set()

    def _claim(self) -> bool:
        """Fill the free slots; True when there may be more for us."""
        with self._lock:
            room = self._slots - len(self._running)
        if room <= 0 or self._draining.is_set():
            return False
        claimed = units.claim(self._parts.db, self._worker_id, self._pool, room)
        for unit in claimed:
            context = Context(self._parts)
            with self._lock:
                self._running[unit.unit_id] = (unit, context)
            threading.Thread(target=self._work, args=(unit, context), name=f"unit-{unit.unit_id[-8:]}").start()
        if len(claimed) == room:
            # Our slots are full and there may be more: a neighbour may help.
            self._bell.wake(self._pool.value)
        return False

    # Working

    def _work(self, unit: Claimed, context: Context) -> None:
        with bound_contextvars(job=unit.job_id, unit=unit.unit_id, kind=unit.kind.value, tenant=unit.tenant_id):
            started = time.monotonic()
            try:
                self._attempt(unit, context)
            except Exception:
                log.exception("unit.not_ended")
            finally:
                with self._lock:
                    self._running.pop(unit.unit_id, None)
                self._woken.set()
                log.info("unit.ended", seconds=round(time.monotonic() - started, 3))

    def _attempt(self, unit: Claimed, context: Context) -> None:
        """Run the handler and end the attempt as it came out."""
        db = self._parts.db
        try:
            woken = self._handlers[unit.kind](unit, context)
        except CancelledUnit:
            patient(lambda: units.release(db, unit), self._closed)
        except NotNow as wait:
            reason, delay_s = str(wait), wait.delay_s
            patient(lambda: jobs.wait_reason(db, unit.job_id, reason), self._closed)
            patient(lambda: units.release(db, unit, delay_s=delay_s), self._closed)
        except Fenced as fenced:
            log.warning("unit.fenced", reason=str(fenced))
        except Unavailable as away:
            # The store or the backend is away: that is not the unit's fault.
            log.warning("unit.waits", reason=str(away))
            patient(lambda: units.release(db, unit, delay_s=5.0), self._closed)
        except Exception as error:
            problem = problem_of(error)
            log.warning("unit.failed", type=problem.type.value, message=problem.message, exc_info=problem.retryable)
            patient(lambda: units.fail(db, unit, problem), self._closed)
            self._bell.wake(Pool.GPU.value)
            self._bell.wake(Pool.IO.value)
        else:
            for pool in woken - {self._pool}:
                self._bell.wake(pool.value)

    # Beating

    def _beat_loop(self) -> None:
        every_s = self._parts.settings.lease_s / 5
        beaten = 0.0
        while not self._closed.wait(CANCEL_S):
            try:
                if self._running:
                    self._cancel()
                if time.monotonic() - beaten >= every_s and self._alive():
                    self._beat()
                    beaten = time.monotonic()
            except Exception as error:
                log.warning("beat.failed", error=str(error)[:300])

    def _alive(self) -> bool:
        """Whether anything moved lately, or nothing runs."""
        with self._lock:
            moves = sum(context.moves for _, context in self._running.values()) if self._running else -1
        if moves != self._moved[0] or moves == -1:
            self._moved = (moves, time.monotonic())
        return time.monotonic() - self._moved[1] < self._parts.settings.stall_s

    def _beat(self) -> None:
        with self._lock:
            running = {
                unit_id: (unit.generation, context.progress) for unit_id, (unit, context) in self._running.items()
            }
        workers.beat(self._parts.db, self._worker_id, running)

    def _cancel(self) -> None:
        unwanted = set(workers.cancelled_units(self._parts.db, self._worker_id))
        with self._lock:
            for unit_id, (_, context) in self._running.items():
                if unit_id in unwanted:
                    context.cancel.set()


def patient(action: Callable[[], T], stop: threading.Event | None = None) -> T:
    """Repeat a statement while the database is away: a commit whose outcome is unknown is settled by repeating it."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return action()
        except Exception as error:
            if not is_outage(error) or time.monotonic() > end or (stop is not None and stop.is_set()):
                raise
            log.warning("database.away", error=str(error)[:200])
            time.sleep(0.5)
