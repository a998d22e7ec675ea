"""Using the stack of a home: the one that runs, or one that is started for us and ends some time after us."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from omni_jobs.embedded.door import knock
from omni_jobs.embedded.home import Home, running
from omni_jobs.embedded.identity import alive, signal_exactly
from omni_jobs.embedded.process import rotate
from omni_jobs.embedded.programs import settings_environment
from omni_jobs.embedded.state import State
from omni_jobs.errors import Refused, Unavailable
from omni_jobs.settings import Settings

LINGER_S = 10.0
READY_TIMEOUT_S = 180.0
POLL_S = 0.05
# Exit status of a supervisor that found another one on its home.
OCCUPIED_STATUS = 75
# Of one that must be set up otherwise: trying again does not help.
REFUSED_STATUS = 78

Progress = Callable[[str], None]


class Stack:
    """A running stack. While this is open, a supervisor that lingers stays.

    Attributes:
        state: the addresses of the parts.
        settings: the caller's settings with those addresses and the API's key filled in.
    """

    def __init__(self, state: State, settings: Settings, connection: socket.socket) -> None:
        self.state = state
        self.settings = settings
        self._connection = connection

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def connect(
    settings: Settings,
    start: bool = True,
    *,
    progress: Progress = lambda line: None,
    command: Sequence[str] | None = None,
    timeout_s: float = READY_TIMEOUT_S,
) -> Stack:
    """The stack of `settings.home`, ready.

    Args:
        settings: of which `home` says which stack is meant.
        start: start one in the background when none runs.
        progress: gets a line whenever the supervisor turns to something else.
        command: the supervisor to start; default: ours, lingering `LINGER_S`.
        timeout_s: how long all of this may take.

    Raises:
        Unavailable: none runs and none is to be started, or it did not become ready.
        Refused: it cannot start as it is set up: its port is taken, its servers may not enter the home.
    """
    home = Home(settings.home)
    command = command or [sys.executable, "-m", "omni_jobs.embedded", "--linger", str(LINGER_S)]
    deadline = time.monotonic() + timeout_s
    supervisor: subprocess.Popen[bytes] | None = None
    said = ""
    while time.monotonic() < deadline:
        state = running(home.path)
        if state is not None and state.ready:
            connection = knock(state.socket)
            if connection is not None:
                return Stack(state, _filled(settings, state, home), connection)
        elif state is not None:
            if state.doing != said:
                progress(said := state.doing)
        elif not start:
            raise Unavailable(f"nothing runs on {home.path}: start it with `omni-jobs up`")
        elif supervisor is None or _gave_way(supervisor, home):
            supervisor = _spawn(settings, home, command)
        time.sleep(POLL_S)
    raise Unavailable(f"the stack on {home.path} is not ready after {timeout_s:.0f} s:\n{_log_tail(home)}")


def stop(home: Path | str, timeout_s: float = 60.0) -> bool:
    """Ends the supervisor of a home and waits until it is gone; False when none ran.

    Raises:
        Unavailable: it is still there after `timeout_s`.
    """
    state = running(Home(home).path)
    if state is None or not signal_exactly(state.supervisor, signal.SIGTERM):
        return False
    deadline = time.monotonic() + timeout_s
    while alive(state.supervisor):
        if time.monotonic() > deadline:
            raise Unavailable(f"pid {state.supervisor.pid} still runs {timeout_s:.0f} s after SIGTERM")
        time.sleep(POLL_S)
    return True


def _spawn(settings: Settings, home: Home, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    home.create()
    path = home.logs / "supervisor.log"
    rotate(path)
    environment = {**os.environ, **settings_environment(settings), "OMNI_HOME": str(home.path)}
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _gave_way(supervisor: "subprocess.Popen[bytes]", home: Home) -> bool:
    """Whether the one we started ended because another one had not quite ended, or ran and has ended since.

    Raises:
        Refused: it cannot start as it is set up.
        Unavailable: it ended for another reason.
    """
    status = supervisor.poll()
    if status is None:
        return False
    if status in (0, OCCUPIED_STATUS):
        return True
    kind = Refused if status == REFUSED_STATUS else Unavailable
    raise kind(f"the stack on {home.path} did not start:\n{_log_tail(home)}")


def _filled(settings: Settings, state: State, home: Home) -> Settings:
    names = ("database_url", "broker_url", "blob_url", "s3_endpoint", "s3_access_key", "s3_secret_key", "api_url")
    found = {name: getattr(state, name) for name in names}
    return settings.model_copy(update={**found, "api_key": settings.api_key or home.key(), "home": home.path})


def _log_tail(home: Home, lines: int = 15) -> str:
    try:
        text = (home.logs / "supervisor.log").read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
