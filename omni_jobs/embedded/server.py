"""What Postgres, Valkey and SeaweedFS have in common: chosen ports, one process, a wait until it answers."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from omni_jobs.embedded.account import Account
from omni_jobs.embedded.home import Home
from omni_jobs.embedded.ports import free_ports
from omni_jobs.embedded.process import Process
from omni_jobs.errors import Unavailable

READY_TIMEOUT_S = 90.0
POLL_S = 0.02

# What a server's environment holds, and nothing else: no secrets or settings of ours, no surprises of the user's.
PLAIN_ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


class PortTaken(Unavailable):
    """Somebody took the port between our choice and the server's start: choose again."""


class Server(ABC):
    """A server out of a wheel. `start` returns at once; the same object may be started again on other ports.

    Attributes:
        name: folder of its data in `home`, and of its log.
        runtime: short path for its sockets, gone when the supervisor ends.
    """

    name: str
    ports_needed = 1

    def __init__(self, home: Home, runtime: Path) -> None:
        self.home = home
        self.runtime = runtime / self.name
        self.account = Account.for_data(self.data)
        self.ports: list[int] = []
        self.process: Process | None = None

    @property
    def data(self) -> Path:
        return self.home / self.name

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it answers, with what a client needs to be let in."""

    @abstractmethod
    def command(self) -> Process:
        """Prepares its files and says how it is started; runs in the main thread, and may run helpers there."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it does what we need of it, tried out."""

    @abstractmethod
    def stop(self) -> None:
        """Ends it in order; returns when it is gone."""

    @property
    def scraps(self) -> list[Path]:
        """What it leaves outside `home` and `runtime` when it is killed."""
        return []

    def start(self) -> None:
        self.ports = free_ports(self.ports_needed)
        self.process = self.command()
        self.process.start()

    def ready(self, timeout_s: float = READY_TIMEOUT_S, *, tick: Callable[[], None] = lambda: None) -> None:
        """Waits until it answers; `tick` is called between two looks and may raise.

        Raises:
            PortTaken: start it again.
            Unavailable: it ended or is too slow; the message holds the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            tick()
            if self._process.ended() is not None:
                raise self._failure()
            if time.monotonic() > deadline:
                raise Unavailable(f"{self.name} does not answer after {timeout_s:.0f} s:\n{self._process.tail()}")
            time.sleep(POLL_S)

    @property
    def _process(self) -> Process:
        if self.process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self.process

    def _failure(self) -> Unavailable:
        tail = self._process.tail()
        kind = PortTaken if "address already in use" in tail.lower() else Unavailable
        return kind(f"{self.name} ended with status {self._process.ended()}:\n{tail}")
