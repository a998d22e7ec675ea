"""Conversations become requests on threads of their own, so that the engine's thread never decodes a picture.

    submit(ask) ──> a thread: decode, features, prompt ──> Loop.submit ──> the result

Asks are composed in the order in which they come, `threads` at a time. How far ahead of the engine one asks is the
caller's choice: about as much as it has free slots, and two seconds more; features lie in memory meanwhile.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from workers.engine.compose import Ask, Composer
from workers.engine.loop import Listener, Loop
from workers.engine.request import FinishReason, Result, Usage


class Prefetch:
    """Any thread."""

    def __init__(self, composer: Composer, loop: Loop, threads: int = 2) -> None:
        self._composer, self._loop = composer, loop
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
        self._lock = threading.Lock()
        self._given_up: dict[str, bool] = {}  # of each ask that no request was made of yet

    def submit(self, ask: Ask, listener: Listener | None = None) -> "Future[Result]":
        """As `Loop.submit`, but what is wrong with the ask comes through the future."""
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
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
        """Drops what was not composed. The loop is closed by its owner, afterwards."""
        with self._lock:
            self._given_up = dict.fromkeys(self._given_up, True)
        self._pool.shutdown()

    def _pass_on(self, ask: Ask, listener: Listener | None, future: "Future[Result]") -> None:
        try:
            request = None if self._given_up.get(ask.id) else self._composer.compose(ask)
            with self._lock:
                # An abort comes before this, and is seen, or after it, and finds the request in the loop.
                given_up = self._given_up.pop(ask.id, False)
                if request is None or given_up:
                    answer: Future[Result] = Future()
                    answer.set_result(Result(ask.id, (), (), FinishReason.ABORTED, Usage(0, 0)))
                else:
                    answer = self._loop.submit(request, listener)
        except Exception as error:
            with self._lock:
                self._given_up.pop(ask.id, None)
            future.set_exception(error)
            return
        answer.add_done_callback(lambda done: _copy(done, future))


def _copy(done: "Future[Result]", future: "Future[Result]") -> None:
    if (error := done.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(done.result())
