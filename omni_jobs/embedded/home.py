"""The state folder `OMNI_HOME`: what it holds, who may read it, and the one lock.

lock           held by the supervisor that runs; its pid inside
state.json     what it started, and where (0600)
key            the API key that clients present (0600)
secrets/       one file per server secret, kept across restarts
postgres/ valkey/ s3/   data, each owned by the account its server runs as
logs/ backups/ bin/
"""

import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omni_jobs.embedded.state import State, read_state
from omni_jobs.errors import Refused


class Occupied(Refused):
    """Another supervisor runs on this home."""


class Home:
    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser().resolve()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def backups(self) -> Path:
        return self.path / "backups"

    @property
    def state_path(self) -> Path:
        return self.path / "state.json"

    def create(self) -> None:
        """Makes the folder and what is always in it.

        Raises:
            Refused: it cannot be made, or belongs to somebody else.
        """
        root = os.geteuid() == 0
        try:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.mkdir(mode=0o700, exist_ok=True)
            found = self.path.stat()
            if found.st_uid != os.geteuid():
                raise Refused(f"{self.path} belongs to uid {found.st_uid}, we run as uid {os.geteuid()}: set OMNI_HOME")
            if root and not found.st_mode & 0o077:
                # As root the servers run as another account, who must pass through to its own folders.
                self.path.chmod(0o711)
            for folder in (self.logs, self.backups, self / "secrets"):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Refused(f"cannot use {self.path} as state folder: {error.strerror}; set OMNI_HOME") from error

    def key(self) -> str:
        """The API key of this home, made once."""
        return _made_once(self / "key")

    def secret(self, name: str) -> str:
        """The secret of a server, made once."""
        return _made_once(self / "secrets" / name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the home for one supervisor; the kernel lets go of it when that ends, however it ends.

        Raises:
            Occupied: somebody else holds it.
        """
        descriptor = os.open(self / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
                raise Occupied(f"omni-jobs already runs on {self.path} as pid {pid}") from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def state(self) -> State | None:
        """What the last supervisor wrote, whether it still runs or not."""
        try:
            return read_state(self.state_path)
        except PermissionError as error:
            raise Refused(f"{self.path} belongs to another user: set OMNI_HOME") from error

    def write_state(self, state: State) -> None:
        _replace(self.state_path, state.to_json())

    def clear_state(self) -> None:
        self.state_path.unlink(missing_ok=True)


def running(home: Path) -> State | None:
    """The state of the live supervisor of a home, ready or not; None when nothing runs there."""
    state = Home(home).state()
    return state if state is not None and state.live else None


def _made_once(path: Path) -> str:
    """A random word in a file of mode 0600; the first of several who make it at once wins."""
    if not path.exists():
        draft = _draft(path, secrets.token_urlsafe(32))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(0o600)
    return path.read_text().strip()


def _replace(path: Path, text: str) -> None:
    os.replace(_draft(path, text), path)


def _draft(path: Path, text: str) -> Path:
    """The text, safe on disk in a new 0600 file beside `path`."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    return Path(name)
