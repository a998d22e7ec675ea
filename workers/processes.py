"""Facts about processes of this machine, from /proc."""

import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRATCH = re.compile(r"omni-scratch-[0-9a-f]{8}-(\d+)-(\d+)-")


def started_at(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 when it is gone. With the pid it names a process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] == "Z" else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Whether this very process still runs: a recycled pid has another start time, a zombie does not count."""
    return started_at(pid) == started and pid != 0


def host() -> str:
    """The machine and its boot: a pid means nothing after a reboot or in another container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        boot, space = "", ""
    return f"{socket.gethostname()}/{boot}/{space}"


@contextmanager
def scratch_folder(parent: Path | None) -> Iterator[Path]:
    """A folder of this process, gone when it ends; those of processes that were killed go too."""
    where = Path(parent or tempfile.gettempdir())
    # A pid says something on its own machine only.
    here = f"omni-scratch-{hashlib.sha256(host().encode()).hexdigest()[:8]}-"
    for left in where.glob(f"{here}*"):
        named = SCRATCH.match(left.name)
        if named and not is_alive(int(named[1]), int(named[2])):
            shutil.rmtree(left, ignore_errors=True)
    prefix = f"{here}{os.getpid()}-{started_at(os.getpid())}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=where) as folder:
        yield Path(folder)
