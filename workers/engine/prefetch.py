"""Conversations become requests on threads of their own, so that the engine's thread never decodes a picture.

    submit(ask) ──> a thread: decode, features, prompt ──> Loop.submit ──> the result

Asks are composed in the order in which they come, `threads` at a time. How far ahead of the engine one asks is the
caller's choice: about as much as it has free slots, and two seconds more; features lie in memory meanwhile.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from omni_jobs.errors import UsageError
from workers.engine.compose import Ask, Composer
from workers.engine.errors import EngineClosed
from workers.engine.loop import Listener, Loop
from workers.engine.request import FinishReason, Result, Usage


class Prefetch:
    """Any thread."""

    def __init__(self, composer: Composer, loop: Loop, threads: int = 2) -> None:
        self._composer, self._loop = composer, loop
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
        self._lock = threading.Lock()
        self._given_up: dict[str, bool] = {}  # of each ask that is not in the loop yet
        self._closed = False

    def submit(self, ask: Ask, listener: Listener | None = None) -> "Future[Result]":
        """As `Loop.submit`, but what is wrong with the ask comes through the future.

        Raises:
            UsageError: its id is in use.
            EngineClosed: nothing is taken any more.
        """
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                raise EngineClosed("the engine is closed")
            if ask.id in self._given_up:
                raise UsageError(f"expected an id that is not in the engine, got {ask.id!r}")
            self._given_up[ask.id] = False
            self._pool.submit(self._pass_on, ask, listener, future)
        return future

    def abort(self, id: str) -> None:
        """As `Loop.abort`, wherever the ask is by now."""
        with self._lock:
            if id in self._given_up:
                self._given_up[id] = True
        self._loop.abort(id)

    def close(self) -> None:
        """Drops what was not composed, and takes nothing any more. The loop is closed by its owner, afterwards."""
        with self._lock:
            self._closed = True
            self._given_up = dict.fromkeys(self._given_up, True)
        self._pool.shutdown()

    def _pass_on(self, ask: Ask, listener: Listener | None, future: "Future[Result]") -> None:
        answer: Future[Result] = Future()
        try:
            request = None if self._given_up[ask.id] else self._composer.compose(ask)
            if request is None or self._given_up[ask.id]:
                answer.set_result(Result(ask.id, (), (), FinishReason.ABORTED, Usage(0, 0)))
            else:
                # Not under the lock: a schema may take a second to compile, and nobody else waits for it.
                answer = self._loop.submit(request, listener)
        except Exception as error:
            answer.set_exception(error)
        with self._lock:
            given_up = self._given_up.pop(ask.id)
        if given_up:
            # An abort before this was noted, and perhaps too late to be seen above; one after it finds the request.
            self._loop.abort(ask.id)
        answer.add_done_callback(lambda done: _copy(done, future))


def _copy(done: "Future[Result]", future: "Future[Result]") -> None:
    if (error := done.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())
