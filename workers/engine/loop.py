"""The engine's thread: requests from anywhere in, futures and deltas out.

    submit ──> inbox ──> engine.add │ step │ step │ ... ──> listeners, futures
    abort  ──>

Threads: every method may be called from any. Listeners and the callbacks of futures run in the engine's thread between
two steps, so they should hand on and return. The thread sleeps while there is nothing to do.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType

from omni_jobs.errors import UsageError
from workers.engine.engine import Engine, Event
from workers.engine.errors import EngineClosed, EngineFailed, RequestFailed
from workers.engine.live import Live, Load, Stats
from workers.engine.request import Delta, Request, Result

Listener = Callable[[Delta], None]


@dataclass(slots=True)
class _Waiter:
    """Who waits for a request. `failure` is what its listener raised."""

    live: Live
    listener: Listener | None
    future: "Future[Result]" = field(default_factory=Future)
    failure: Exception | None = None


class Loop:
    """Runs one engine until it is closed."""

    def __init__(self, engine: Engine, name: str = "engine") -> None:
        self._engine = engine
        self._waiters: dict[str, _Waiter] = {}
        self._inbox: list[Callable[[], None]] = []
        self._wakeup = threading.Condition()
        self._closing = False
        self._died = ""
        # A process that ends without `close` is not held up by it.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Loop":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, request: Request, listener: Listener | None = None) -> "Future[Result]":
        """Puts a request in line. Its schema is compiled here, in the caller's thread.

        Args:
            listener: is given every delta; what it raises ends the request.

        Returns:
            The result of an answer that ended, or was ended by an abort or a deadline. Raises `RequestFailed` or
            `EngineFailed` for one that did not. It cannot be cancelled: `abort` does that.

        Raises:
            UsageError: it cannot be answered, ever (`NeverFits` among them), or its id is in use.
            EngineFailed, EngineClosed: nothing can be answered any more.
        """
        waiter = _Waiter(self._engine.prepare(request), listener)
        waiter.future.set_running_or_notify_cancel()
        with self._wakeup:
            if problem := self.health():
                raise EngineFailed(f"the engine has failed: {problem}")
            if self._closing:
                raise EngineClosed("the engine is closed")
            if request.id in self._waiters:
                raise UsageError(f"expected an id that is not in the engine, got {request.id!r}")
            self._waiters[request.id] = waiter
            self._post(lambda: self._add(waiter))
        return waiter.future

    def abort(self, id: str) -> None:
        """Ends a request soon; its future gives what it has said so far. An id that is not known is no error."""
        with self._wakeup:
            self._post(lambda: self._engine.abort(id))

    def progress(self, id: str) -> float:
        """0..1 of a request, 0 for one that is not known."""
        waiter = self._waiters.get(id)
        return waiter.live.progress if waiter is not None else 0.0

    @property
    def steps(self) -> int:
        """Steps so far: moves while the engine works, so whoever watches it sees that it is alive."""
        return self._engine.stats.steps

    @property
    def stats(self) -> Stats:
        return self._engine.stats

    @property
    def load(self) -> Load:
        return self._engine.load

    def health(self) -> str:
        """Empty when well, else why nothing is answered any more."""
        return self._died or self._engine.failed

    def close(self, *, drain: bool = False, timeout_s: float | None = None) -> bool:
        """Takes nothing any more and ends the thread. May be called twice.

        Args:
            drain: what is in the engine is answered first; otherwise it is aborted.
            timeout_s: how long to wait for that; None waits as long as it takes.

        Returns:
            Whether the thread has ended.
        """
        with self._wakeup:
            self._closing = True
            self._post(lambda: None if drain else self._abort_all())
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _post(self, command: Callable[[], None]) -> None:
        self._inbox.append(command)
        self._wakeup.notify()

    def _run(self) -> None:
        try:
            while (commands := self._commands()) is not None:
                for command in commands:
                    command()
                self._tell(self._engine.step())
        except BaseException as error:
            self._die(error)
            raise

    def _commands(self) -> list[Callable[[], None]] | None:
        """What was asked for meanwhile, once there is anything to do; None at the end."""
        with self._wakeup:
            while not self._inbox and self._engine.idle:
                if self._closing:
                    return None
                self._wakeup.wait()
            commands, self._inbox = self._inbox, []
            return commands

    def _add(self, waiter: _Waiter) -> None:
        try:
            self._engine.add(waiter.live)
        except Exception as error:
            self._answer(waiter, error)

    def _abort_all(self) -> None:
        for id in list(self._waiters):
            self._engine.abort(id)

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            waiter = self._waiters[event.id]
            if isinstance(event, Result):
                self._answer(waiter, waiter.failure or event.error or event)
            elif waiter.listener is not None and waiter.failure is None:
                try:
                    waiter.listener(event)
                except Exception as error:
                    waiter.failure = RequestFailed(f"its listener failed: {type(error).__name__}: {error}")
                    waiter.failure.__cause__ = error
                    self._engine.abort(event.id)

    def _answer(self, waiter: _Waiter, outcome: Result | Exception) -> None:
        del self._waiters[waiter.live.id]
        if isinstance(outcome, Result):
            waiter.future.set_result(outcome)
        else:
            waiter.future.set_exception(outcome)

    def _die(self, error: BaseException) -> None:
        """The thread itself has failed; nobody may wait for ever."""
        with self._wakeup:
            self._died = f"{type(error).__name__}: {error}"
            waiters = list(self._waiters.values())
        for waiter in waiters:
            self._answer(waiter, EngineFailed(f"the engine's thread has ended: {self._died}"))
