"""How a command reaches a stack: that of `OMNI_API_URL`, the one under `OMNI_HOME`, or one started for it."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from omni_jobs.cli.terminal import plain
from omni_jobs.errors import Refused, Unavailable, UsageError

# Imported where they are used: `--help` must not wait for them.
if TYPE_CHECKING:
    from omni_jobs.client import Client
    from omni_jobs.embedded.client import Stack
    from omni_jobs.settings import Settings

Found = TypeVar("Found")
Say = Callable[[str], None]
PATIENCE_S = 60.0
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0


def read_settings() -> "Settings":
    """The settings of this process.

    Raises:
        UsageError: a variable has a value that it cannot have.
    """
    from pydantic import ValidationError

    from omni_jobs.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "OMNI_" + "_".join(map(str, first["loc"])).upper()
        raise UsageError(f"{name}: {first['msg']}, got {first['input']!r}") from error


def say(line: str) -> None:
    print(plain(line), file=sys.stderr, flush=True)


def used_before(settings: "Settings") -> bool:
    """Whether a stack has run under this home, so that starting it again shows what it knows."""
    return (settings.home / "postgres").exists() or bool(settings.database_url)


class Reach:
    """The API of one stack. Threads may share it.

    Attributes:
        client: to call it with; another one after `renew`.
    """

    def __init__(self, settings: "Settings", stack: "Stack | None", say: Say) -> None:
        self._asked = settings
        self._stack = stack
        self._say = say
        self._lock = threading.Lock()
        self._clients: list[Client] = []
        self.client = self._new_client()

    @property
    def settings(self) -> "Settings":
        """With the addresses of the stack, where it is one of ours."""
        return self._stack.settings if self._stack else self._asked

    def renew(self) -> None:
        """After a silence: the stack under our home may have ended, and is started again."""
        if self._stack is None:
            return
        with self._lock:
            before, old = self._stack.settings, self._stack
            self._stack = connected(self._asked, start=True, say=self._say)
            old.close()
            if self.settings.api_url != before.api_url:
                self.client = self._new_client()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self._stack is not None:
            self._stack.close()

    def _new_client(self) -> "Client":
        from omni_jobs.client import Client

        client = Client(self.settings.api_url, self.settings.api_key or _home_key(self._asked))
        # An old one is closed with the rest: another thread may be in the middle of a call.
        self._clients.append(client)
        return client


@contextmanager
def reach(*, start: bool | None = None, say: Say = say) -> Iterator[Reach]:
    """The stack that the settings mean.

    Args:
        start: start an embedded one when none runs; None: only where one has run before.
        say: gets a line while one starts.

    Raises:
        Unavailable: none runs, and none is to be started or it does not come up.
    """
    settings = read_settings()
    stack: Stack | None = None
    if not settings.api_url:
        stack = connected(settings, start=start, say=say)
    found = Reach(settings, stack, say)
    try:
        yield found
    finally:
        found.close()


def connected(settings: "Settings", *, start: bool | None = None, say: Say = say) -> "Stack":
    from omni_jobs.embedded.client import connect

    start = used_before(settings) if start is None else start
    return connect(settings, start=start, progress=say)


def patiently(call: Callable[[], Found], *, wait: Callable[[float], object], renew: Callable[[], None]) -> Found:
    """The answer of a call that may be repeated, however often the stack is silent within `PATIENCE_S`.

    Raises:
        Unavailable: it was silent for all of that time.
    """
    waited, pause = 0.0, FIRST_PAUSE_S
    while True:
        try:
            return call()
        except Unavailable:
            if waited >= PATIENCE_S:
                raise
        wait(pause)
        waited += pause
        pause = min(2 * pause, LONGEST_PAUSE_S)
        renew()


def _home_key(settings: "Settings") -> str:
    """The key of this home, for an `OMNI_API_URL` that is the stack which runs there; nobody else gets it.

    Raises:
        Refused: it is another one.
    """
    from omni_jobs.embedded.home import Home, running

    with suppress(Refused, OSError):
        state = running(settings.home)
        if state is not None and state.api_url and state.api_url.rstrip("/") == settings.api_url.rstrip("/"):
            return Home(settings.home).key()
    raise Refused(
        f"no key for {settings.api_url}: set OMNI_API_KEY (the key in {settings.home} goes to its own stack only)"
    )
