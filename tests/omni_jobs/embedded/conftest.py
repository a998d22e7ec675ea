"""Homes outside pytest's own folders (as root those are closed to the account the servers run as), and supervisors."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from omni_jobs.embedded.account import Account
from omni_jobs.embedded.home import running
from omni_jobs.embedded.identity import folder_of, identify, pids
from omni_jobs.embedded.state import State

STAND_IN = Path(__file__).with_name("stand_in.py")
REPOSITORY = Path(__file__).parents[3]
START_TIMEOUT_S = 60.0


class Supervised:
    """A supervisor process on one home, with stand-ins for our programs."""

    def __init__(
        self, home: Path, *arguments: str, run_by: Sequence[str] = (), variables: Mapping[str, str] | None = None
    ) -> None:
        self.home = home
        self.output = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [*run_by, *supervisor_command(*arguments)],
            env={**environment(home), **(variables or {})},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
        )

    def ready(self) -> State:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the supervisor ended with {self.process.returncode}:\n{self.said()}")
            state = running(self.home)
            if state is not None and state.ready and state.supervisor.pid == self.process.pid:
                return state
            time.sleep(0.05)
        raise AssertionError(f"the supervisor is not ready:\n{self.said()}")

    def said(self) -> str:
        self.output.seek(0)
        return self.output.read().decode()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        self.output.close()


def become(account: str) -> list[str]:
    """The words before a command that run it as an ordinary user, as root."""
    entry = pwd.getpwnam(account)
    words = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    if Account(account, entry.pw_uid, entry.pw_gid).blocked_at(Path(sys.executable).resolve()):
        # This Python lies in root's home: the user gets leave to read there, and nothing else.
        words += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return words


def supervisor_command(*arguments: str) -> Sequence[str]:
    return [sys.executable, str(STAND_IN), "supervise", *arguments]


def environment(home: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("OMNI_")}
    return {**ours, "OMNI_HOME": str(home), "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}


def processes_of(home: Path) -> dict[int, str]:
    """Live processes that name this home on their command line, in their environment or by their folder."""
    name, found = os.fsencode(home), {}
    for pid in pids():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            surroundings = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        inside = folder_of(pid).startswith(str(home))
        if pid != os.getpid() and identify(pid) and (name in command or name in surroundings or inside):
            found[pid] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


@pytest.fixture(scope="module")
def homes() -> Iterator[Path]:
    """A folder for homes, with a space in its name, that every account may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="omni test "))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def stack(homes: Path) -> Iterator[Supervised]:
    """A supervisor that several tests use."""
    supervised = Supervised(homes / "shared")
    try:
        supervised.ready()
        yield supervised
    finally:
        supervised.end()
