"""Who a pid is: a number is recycled, a number with its start time is not."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, and no other that gets the same pid later.

    Attributes:
        started: clock ticks since boot, from /proc/PID/stat.
        boot: the kernel's boot id, because ticks begin again at every boot.
    """

    pid: int
    started: int
    boot: str


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    session: int
    started: int


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Identity | None:
    """The identity of a running process; a zombie runs no more."""
    stat = _stat(pid)
    return None if stat is None or stat.state in "ZX" else Identity(pid, stat.started, boot_id())


def alive(identity: Identity) -> bool:
    return identify(identity.pid) == identity


def signal_exactly(identity: Identity, number: signal.Signals) -> bool:
    """Signals this process and never the next owner of its pid; False when it is gone."""
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        # The handle is held first: what is checked now is what gets the signal.
        if not alive(identity):
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def session_of(pid: int) -> int | None:
    stat = _stat(pid)
    return None if stat is None else stat.session


def folder_of(pid: int) -> str:
    """Working directory of a process; empty when it may not be seen."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def program_of(pid: int) -> str:
    """Name of the program file; empty when it may not be seen."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
    except OSError:
        return ""


def environment_of(pid: int) -> frozenset[bytes]:
    """`NAME=value` as the process was given them; empty when they may not be seen."""
    try:
        return frozenset(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return frozenset()


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field is the name in brackets, which may itself hold brackets and spaces.
    fields = text.rpartition(")")[2].split()
    return _Stat(state=fields[0], session=int(fields[3]), started=int(fields[19]))
