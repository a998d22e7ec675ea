"""Claims units for one pool, runs them in threads, beats for them, and ends each attempt one way.

Threads: one that claims, one that beats and asks what is not wanted any more, one that ends attempts, and one for each
running unit. A wake-up only sets a flag. Guarantees: an attempt is ended exactly once, or the lease ends it; a drain
hands back what it cannot end; a unit that may only run alone does.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from structlog.contextvars import bound_contextvars

from omni_jobs import telemetry
from omni_jobs.broker import Bell
from omni_jobs.errors import ErrorType, Problem, Unavailable, problem_of
from omni_jobs.failpoints import reach
from omni_jobs.job import Outcome, Pool, UnitKind
from omni_jobs.store import claims, jobs, reaper, workers
from omni_jobs.store.attempts import Ending, Fenced
from omni_jobs.store.claims import Claimed
from omni_jobs.store.database import is_outage
from workers.context import CancelledUnit, Context, NotNow, Parts, Rejected
from workers.counters import Counters
from workers.patience import patient

log = telemetry.get_logger()
Handler = Callable[[Claimed, Context], set[Pool]]

CANCEL_S = 0.5  # how often it is asked what is not wanted any more
ALONE_S = 0.5  # how often it is asked whether a unit must run alone
IDLE_S = 5.0  # an idle pump looks for work so often even if nobody wakes it
GATHER_S = 0.02  # slots that come free within this time are filled by one claim
BUSY_S = 1.0  # a busy worker takes no more than one wake-up in this time
STUCK_S = 10.0  # a unit that is told to stop has so long
AWAY_S = 5.0  # a unit whose store or backend does not answer waits so long


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
        counters: Counters,
    ) -> None:
        self._parts, self._bell, self._pool, self._handlers = parts, bell, pool, handlers
        self._worker_id, self._slots, self._counters = worker_id, slots, counters
        self._running: dict[tuple[str, int], tuple[Claimed, Context]] = {}  # by unit and generation
        self._solo, self._asked = False, 0.0  # whether the next unit, or the one that runs, is to be alone
        self._neighbours = True  # whether the pool has other workers, as of the last beat
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._hungry = threading.Event()  # there was room and no work when it was last looked for
        self._draining = threading.Event()
        self._closed = threading.Event()
        self._work_threads = ThreadPoolExecutor(slots, thread_name_prefix="unit")
        self._threads = [
            threading.Thread(target=self._claim_loop, name="claim", daemon=True),
            threading.Thread(target=self._beat_loop, name="beat", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self._woken.set()

    def wake(self) -> None:
        """There may be work. Returns when more has been looked for in vain: who is busy looks by itself, and the next
        wake-up is for another worker.
        """
        self._counters.add("wakes")
        self._hungry.clear()
        self._woken.set()
        if not self._draining.is_set():
            self._hungry.wait(BUSY_S)

    def drain(self) -> None:
        """Claim nothing more, and say so: the worker lives and is not ready."""
        self._draining.set()
        self._woken.set()
        self._hungry.set()

    def close(self, grace_s: float) -> None:
        """Drain: running units get `grace_s`, then they are cancelled and handed back; returns when all have ended."""
        self.drain()
        self._wait_idle(grace_s)
        with self._lock:
            for _, context in self._running.values():
                context.cancel.set()
        self._wait_idle(10.0)
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout=2 * CANCEL_S)
        self._work_threads.shutdown(wait=False, cancel_futures=True)

    def _wait_idle(self, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while self._running and time.monotonic() < end:
            time.sleep(0.02)

    # Claiming

    def _claim_loop(self) -> None:
        while not self._draining.is_set():
            woken = self._woken.wait(IDLE_S)
            self._woken.clear()
            try:
                if self._claim() == 0 and woken and not self._running:
                    self._counters.add("wakes_in_vain")
            except Exception as error:
                log.warning("claim.failed", error=str(error)[:300])
                self._draining.wait(0.5)
                self._woken.set()
            self._draining.wait(GATHER_S)
        # Not in `drain`, which a signal handler calls.
        try:
            workers.set_state(self._parts.db, self._worker_id, "draining")
        except Exception as error:
            log.warning("drain.not_told", error=str(error)[:300])

    def _claim(self) -> int:
        """Fill the free slots; returns how many units were taken."""
        with self._lock:
            running, held = len(self._running), [unit_id for unit_id, _ in self._running]
            room = 0 if self._solo and running else self._slots - running
        if room <= 0 or self._draining.is_set():
            return 0
        # Somebody must be alone: nothing more is taken until this process is idle, then that one.
        if not self._solo and time.monotonic() - self._asked > ALONE_S:
            self._solo, self._asked = claims.quarantined(self._parts.db, self._pool), time.monotonic()
        if self._solo and running:
            return 0
        claimed = claims.claim(self._parts.db, self._worker_id, self._pool, room, solo=self._solo, held=held)
        if self._solo and not claimed:
            self._solo = False  # a neighbour has it, or all have been
            self._woken.set()
        if claimed:
            reach("claim.taken")
        for unit in claimed:
            context = Context(self._parts, unit)
            with self._lock:
                self._running[unit.unit_id, unit.generation] = (unit, context)
            self._work_threads.submit(self._work, unit, context)
        if len(claimed) < room:
            self._hungry.set()
        elif self._neighbours:
            # Our slots are full and there may be more: a neighbour may help.
            self._bell.wake(self._pool.value)
        return len(claimed)

    # Working

    def _work(self, unit: Claimed, context: Context) -> None:
        with bound_contextvars(job=unit.job_id, unit=unit.unit_id, kind=unit.kind.value, tenant=unit.tenant_id):
            started = time.monotonic()
            self._parts.flight.enter(unit.unit_id)
            try:
                self._attempt(unit, context)
            except Exception:
                log.exception("unit.not_ended")
                self._counters.add("units", kind=unit.kind.value, outcome="not_ended")
            finally:
                self._parts.flight.leave(unit.unit_id)
                with self._lock:
                    self._running.pop((unit.unit_id, unit.generation), None)
                self._woken.set()
                seconds = time.monotonic() - started
                self._counters.add("unit_seconds", seconds, kind=unit.kind.value)
                log.debug("unit.ended", seconds=round(seconds, 3))

    def _attempt(self, unit: Claimed, context: Context) -> None:
        """Run the handler and end the attempt as it came out."""
        try:
            woken = self._handlers[unit.kind](unit, context)
            self._count(unit, Outcome.SUCCEEDED)
        except Fenced as fenced:
            woken = self._refused(unit, fenced)
        except Exception as error:
            woken = self._give_up(unit, context, error)
        for pool in woken - {self._pool}:
            self._bell.wake(pool.value)

    def _give_up(self, unit: Claimed, context: Context, error: Exception) -> set[Pool]:
        """An attempt without an answer: whose fault it was decides what it costs."""
        match error:
            case CancelledUnit() if context.stalled:
                problem = Problem(ErrorType.TIMEOUT, "the unit stood still for too long", retryable=True)
                ending = Ending(unit, Outcome.FAILED, problem=problem)
            case CancelledUnit():
                ending = Ending(unit, Outcome.RELEASED)
            case NotNow():
                patient(lambda: jobs.wait_reason(self._parts.db, unit.job_id, str(error)), self._closed)
                ending = Ending(unit, Outcome.RELEASED, delay_s=error.delay_s)
            case Unavailable():
                # The store or the backend is away: that is not the unit's fault.
                log.warning("unit.waits", reason=str(error))
                reason = f"waiting: {error}"
                patient(lambda: jobs.wait_reason(self._parts.db, unit.job_id, reason), self._closed)
                ending = Ending(unit, Outcome.RELEASED, delay_s=AWAY_S)
            case _ if is_outage(error):
                log.warning("unit.waits", reason=f"the database went away: {error}"[:200])
                ending = Ending(unit, Outcome.RELEASED, delay_s=AWAY_S)
            case Rejected():
                log.warning("unit.rejected", gate=error.gate, reason=str(error))
                ending = Ending(unit, Outcome.REJECTED, error.answer, problem=error.problem, last=error.last)
            case _:
                problem = problem_of(error)
                log.warning("unit.failed", type=problem.type.value, message=problem.message, exc_info=problem.retryable)
                # What had no room in company is tried with nothing beside it.
                ending = Ending(unit, Outcome.FAILED, problem=problem, alone=_is_out_of_memory(error))
        try:
            woken = self._parts.endings.end(ending)
        except Fenced as fenced:
            return self._refused(unit, fenced)
        self._count(unit, ending.outcome)
        return woken

    def _refused(self, unit: Claimed, fenced: Fenced) -> set[Pool]:
        """The unit is no longer ours: nothing was written, and nobody need be woken."""
        log.warning("unit.fenced", reason=str(fenced))
        self._counters.add("units", kind=unit.kind.value, outcome="fenced")
        return set()

    def _count(self, unit: Claimed, outcome: Outcome) -> None:
        self._counters.add("units", kind=unit.kind.value, outcome=outcome.value)

    # Beating

    def _beat_loop(self) -> None:
        every_s = self._parts.settings.lease_s / 5
        beaten = float("-inf")
        while not self._closed.wait(CANCEL_S):
            try:
                self._cancel_unwanted()
                if time.monotonic() - beaten >= every_s:
                    self._beat()
                    beaten = time.monotonic()
            except Exception as error:
                log.warning("beat.failed", error=str(error)[:300])
            self._end_stalled()

    def _beat(self) -> None:
        db, worker_id = self._parts.db, self._worker_id
        with self._lock:
            running = {unit.unit_id: (unit.generation, context.progress) for unit, context in self._running.values()}
            held = list(self._running)
        self._neighbours = workers.beat(db, worker_id, running, self._counters.totals()) > 1
        if back := reaper.hand_back(db, worker_id, held, 2 * self._parts.settings.lease_s):
            self._counters.add("units_handed_back", back)

    def _cancel_unwanted(self) -> None:
        with self._lock:
            held = list(self._running)
        if not held:
            return
        unwanted = workers.unwanted(self._parts.db, held)
        with self._lock:
            for key in unwanted & self._running.keys():
                self._running[key][1].cancel.set()

    def _end_stalled(self) -> None:
        """A unit that stands still is told to stop; if it cannot, this process dies, and its record says of whom."""
        stall_s = self._parts.settings.stall_s
        with self._lock:
            still = [(unit, context) for unit, context in self._running.values() if context.still_s() > stall_s]
        for _, context in still:
            context.stalled = True
            context.cancel.set()
        stuck = [unit.unit_id for unit, context in still if context.still_s() > stall_s + STUCK_S]
        if stuck:
            log.error("worker.stuck", units=stuck)
            self._parts.flight.step(stuck)
            os.kill(os.getpid(), signal.SIGKILL)


def _is_out_of_memory(error: Exception) -> bool:
    """Of this process, or, as torch calls it, of the GPU."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
