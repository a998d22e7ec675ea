"""Facts about processes of this machine, from /proc."""

import os
from pathlib import Path


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
    import socket

    return f"{socket.gethostname()}/{boot}/{space}"
