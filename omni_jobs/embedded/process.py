"""How every child is started and ended.

A child gets a session of its own, no stdin, a log file, and PR_SET_PDEATHSIG: the kernel kills it when the thread that
forked it ends. So `start` is called by the supervisor's main thread only, and a SIGKILL of the supervisor leaves no
child. The signal does not reach grandchildren: whoever starts those does the same (`die_with`).
"""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from omni_jobs.embedded.account import Account
from omni_jobs.embedded.identity import Identity, identify

LOG_LIMIT_BYTES = 10 * 2**20
PR_SET_PDEATHSIG = 1

# Loaded here, because nothing should be loaded between fork and exec.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def die_with(parent: int) -> Callable[[], None]:
    """A `preexec_fn` after which the child is killed when `parent`'s forking thread ends."""

    def bind() -> None:
        # Runs after the change of user, which would clear the setting.
        _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return bind


class Process:
    """One child: it can be started again after it ended, with the same command line."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log_path: Path,
        env: Mapping[str, str],
        cwd: Path | str = "/",
        account: Account | None = None,
    ) -> None:
        self.name = name
        self.argv = [str(word) for word in argv]
        self.log_path = log_path
        self.env = dict(env)
        self.cwd = cwd
        self.account = account
        self.identity: Identity | None = None
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        if self._popen is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._popen.pid

    def start(self) -> None:
        """Runs in the supervisor's main thread."""
        rotate(self.log_path)
        with open(os.open(self.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as output:
            self._log_start = os.fstat(output.fileno()).st_size
            account = self.account
            self._popen = subprocess.Popen(
                self.argv,
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
                user=account and account.uid,
                group=account and account.gid,
                extra_groups=[] if account else None,
            )
        self.identity = identify(self.pid)

    def ended(self) -> int | None:
        """The exit status as `subprocess` gives it, None while it runs. What it left in its group ends with it."""
        if self._popen is None:
            return None
        if self._popen.returncode is None:
            # Looked at without reaping: until then the pid, and the group of that number, can be nobody else's.
            if os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self._kill_group()
            self._popen.wait()
        return self._popen.returncode

    def send(self, number: signal.Signals) -> None:
        if self._popen is not None and self.ended() is None:
            os.kill(self._popen.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended in time."""
        deadline = time.monotonic() + timeout_s
        while self._popen is not None and self.ended() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def kill(self) -> None:
        if self._popen is not None and self.ended() is None:
            self._kill_group()
            self._popen.wait()

    def run(self, timeout_s: float) -> int | None:
        """Starts it and waits for its end; None when it was killed at the timeout."""
        self.start()
        ended = self.wait(timeout_s)
        self.kill()
        return self.ended() if ended else None

    def tail(self, lines: int = 15) -> str:
        """The last lines it wrote since it was started."""
        try:
            with self.log_path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start if self._log_start <= size else 0, size - 16_384))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def rotate(path: Path) -> None:
    """Moves a log of more than `LOG_LIMIT_BYTES` to `path`.1 and empties it, while its writer appends."""
    with suppress(FileNotFoundError):
        if path.stat().st_size > LOG_LIMIT_BYTES:
            # Without room for a copy the log goes.
            with suppress(OSError):
                _copy_private(path, Path(f"{path}.1"))
            os.truncate(path, 0)


def _copy_private(source: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as copy, source.open("rb") as original:
        shutil.copyfileobj(original, copy)
