"""One answer on its way from the engine's thread to a connection.

    engine's thread: listener, done ──call_soon_threadsafe──> queue ──> who awaits it

Whoever stops waiting closes the exchange: the request leaves the engine, and its decoders end.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

from omni_jobs.errors import UsageError
from workers.engine.errors import EngineClosed
from workers.engine.loop import Listener
from workers.engine.request import Delta, FinishReason, Result
from workers.engine.start import Running
from workers.serving.resident import CLOSING, Resident

LEFT = "the request was broken off"
Submit = Callable[[Running, Listener, threading.Event], "Future[Result]"]


class Exchange:
    """Belongs to one event loop."""

    def __init__(self, resident: Resident, id: str) -> None:
        self.id = id
        self._resident = resident
        self._cancel = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Delta | None] = asyncio.Queue()
        self._running: Running | None = None
        self._future: Future[Result] | None = None

    async def begin(self, submit: Submit) -> Running:
        """Submits; waits for the model where it has to be loaded.

        Raises:
            OmniError: what is refused at once.
        """
        return await asyncio.to_thread(self._begin, submit)

    def _begin(self, submit: Submit) -> Running:
        running = self._resident.take()
        try:
            future = submit(running, self._tell, self._cancel)
        except BaseException:
            self._resident.give_back()
            raise
        self._running, self._future = running, future
        future.add_done_callback(self._done)
        if self._cancel.is_set():
            running.prefetch.abort(self.id)
        return running

    async def deltas(self) -> AsyncIterator[Delta]:
        """What comes, until the end."""
        while (delta := await self._queue.get()) is not None:
            yield delta

    def result(self) -> Result:
        """After the last delta.

        Raises:
            OmniError: why there is no answer.
        """
        assert self._future is not None
        result = self._future.result(0)
        if result.finish_reason is FinishReason.ABORTED:
            # That somebody has left is no failure of ours, and nobody reads this.
            raise UsageError(LEFT) if self._cancel.is_set() else EngineClosed(CLOSING)
        return result

    def close(self) -> None:
        """Nobody waits any more. Costs nothing after the end."""
        self._cancel.set()
        if self._running is not None and self._future is not None and not self._future.done():
            self._running.prefetch.abort(self.id)

    def _done(self, future: "Future[Result]") -> None:
        self._resident.give_back()
        self._tell(None)

    def _tell(self, delta: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, delta)
        except RuntimeError:
            pass  # the event loop has ended, and with it whoever waited
