"""The model that is served: loaded when somebody asks, given up when nobody has for a while.

    UNLOADED ──take──> LOADED, users 1 ... n ──give_back──> users 0 ──idle_s──> UNLOADED

Threads: any. Loading holds up those who ask meanwhile; they are answered once it is there.
"""

import gc
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

from omni_jobs.errors import OmniError, TooMany, Unavailable
from workers.engine.live import Load
from workers.engine.start import Running

CLOSING = "the server is closing"


@dataclass(frozen=True, slots=True)
class Condition:
    """What `/health` says.

    Attributes:
        problem: empty when well.
        load: of a loaded engine.
    """

    problem: str
    loaded: bool
    users: int
    load: Load | None = None


class Resident:
    """
    Attributes:
        loads: how often the model was loaded.
        users: who uses it now, or waits for it.
        draining: nobody more may; set from anywhere, a signal's handler included.
    """

    def __init__(self, load: Callable[[], Running], *, idle_s: float = 0.0, most: int = 256) -> None:
        """
        Args:
            idle_s: without a request after which the weights are given up; 0 keeps them.
            most: requests at once.
        """
        self._load, self._idle_s, self._most = load, idle_s, most
        self._lock = threading.Lock()  # of `users`, and of what is changed with it
        self._loading = threading.Lock()  # taken first
        self._running: Running | None = None
        self._timer: threading.Timer | None = None
        self._closed = self.draining = False
        self._failure = ""  # of the last load
        self.users = self.loads = 0

    def take(self) -> Running:
        """The engine, until `give_back`.

        Raises:
            TooMany: as many use it as may.
            Unavailable: it cannot be loaded, or we are closing.
        """
        with self._lock:
            if self._closing:
                raise Unavailable(CLOSING)
            if self.users >= self._most:
                raise TooMany(f"expected at most {self._most} requests at once, got one more")
            self.users += 1
            self._stop_timer()
        try:
            with self._loading:
                if self._running is None:
                    self._running = self._loaded()
                return self._running
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        with self._lock:
            self.users -= 1
            if not self.users and self._idle_s and not self._closed:
                self._stop_timer()
                self._timer = threading.Timer(self._idle_s, self._unload)
                self._timer.daemon = True
                self._timer.start()

    def condition(self) -> Condition:
        running, problem = self._running, CLOSING if self._closing else self._failure
        if running is None:
            return Condition(problem, False, self.users)
        return Condition(running.loop.health() or problem, True, self.users, running.loop.load)

    def close(self) -> None:
        """Ends what is in the engine; nothing is loaded any more. May be called twice."""
        with self._lock:
            self._closed = True
            self._stop_timer()
        with self._loading:
            running, self._running = self._running, None
        if running is not None:
            # Who is answered hears of it at once, even while a video of somebody else is being decoded.
            running.loop.close()
            running.close()

    @property
    def _closing(self) -> bool:
        return self._closed or self.draining

    def _loaded(self) -> Running:
        try:
            running = self._load()
        except (OmniError, ValueError, OSError, torch.OutOfMemoryError) as error:
            self._failure = f"the model cannot be loaded: {error}"
            raise Unavailable(self._failure) from error
        self.loads, self._failure = self.loads + 1, ""
        return running

    def _unload(self) -> None:
        with self._loading:
            with self._lock:
                if self.users or self._closed:
                    return
            running, self._running = self._running, None
            if running is not None:
                running.close()
            del running
            gc.collect()  # what the engine's parts hold of each other
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
