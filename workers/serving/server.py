"""A server that ends in order.

    SIGTERM ──> nothing more is taken, and said so (503) ──> answers end, `drain_s` at most ──> the rest is broken off,
    each stream by a last event ──> no port, no engine, exit status 0

A second signal ends the process at once.
"""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn

from workers.serving.resident import Resident

SIGNALS = (signal.SIGTERM, signal.SIGINT)
BREAK_OFF_S = 3  # for the last event of each stream


class Server(uvicorn.Server):
    """Serves until it is told to end, then closes the model."""

    def __init__(self, config: uvicorn.Config, resident: Resident, drain_s: float) -> None:
        super().__init__(config)
        self._resident, self._drain_s = resident, drain_s
        self._latest: float | None = None  # to end, once we are told to

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn, does not raise again what ended us: to do as one is told is no failure."""
        before = {each: signal.signal(each, self.handle_exit) for each in SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._latest is not None:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._latest = time.monotonic() + self._drain_s
        self._resident.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self._latest is not None and (not self._resident.users or time.monotonic() >= self._latest):
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        closing = asyncio.create_task(asyncio.to_thread(self._resident.close))
        await super().shutdown(sockets)
        await closing
