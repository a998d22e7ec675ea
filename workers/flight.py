"""What a process works on, in a file that outlives it: after a crash it says who was in question.

A memory-mapped file of fixed slots: writing is a store into shared memory, which survives SIGKILL and SIGSEGV (not a
crash of the machine, which is nobody's fault). One writer; any reader, once the writer is dead.

    slot: unit id (16 bytes), state (1 byte): 0 free, 1 in flight, 2 newly entered in the step that runs
"""

import mmap
import os
import tempfile
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from omni_jobs.settings import Settings

SLOT = 17
FREE, IN_FLIGHT, ENTERED = 0, 1, 2


def folder(settings: Settings) -> Path:
    """Where the processes of this machine keep their records; `maintain` must look in the same place."""
    return Path(settings.work_dir or tempfile.gettempdir()) / f"omni-flight-{os.getuid()}"


class Flight:
    """The record of this process."""

    def __init__(self, path: Path, slots: int = 1024) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        with path.open("w+b") as file:
            file.truncate(slots * SLOT)
            self._map = mmap.mmap(file.fileno(), slots * SLOT)
        self._slots: dict[str, int] = {}
        self._free = list(range(slots - 1, -1, -1))
        self._lock = threading.Lock()

    def enter(self, unit_id: str) -> None:
        """The process has begun to work on a unit."""
        with self._lock:
            if unit_id in self._slots:
                return  # an earlier attempt at it, given up meanwhile, is still here
            slot = self._slots[unit_id] = self._free.pop()
            self._map[slot * SLOT : slot * SLOT + 16] = uuid.UUID(unit_id).bytes
            self._map[slot * SLOT + 16] = IN_FLIGHT

    def step(self, entering: Iterable[str]) -> None:
        """A step over many units begins, with these in it for the first time; what is in flight has survived one."""
        new = set(entering)
        with self._lock:
            for unit_id, slot in self._slots.items():
                self._map[slot * SLOT + 16] = ENTERED if unit_id in new else IN_FLIGHT

    def leave(self, unit_id: str) -> None:
        with self._lock:
            if (slot := self._slots.pop(unit_id, None)) is not None:
                self._map[slot * SLOT + 16] = FREE
                self._free.append(slot)

    def close(self) -> None:
        self._map.close()
        self._path.unlink(missing_ok=True)


class InFlight(NamedTuple):
    """The units in question when a process died, and whether one was all it worked on."""

    suspects: tuple[str, ...]
    alone: bool


def read(path: Path) -> InFlight | None:
    """Who was in question when the writer died; None without a record.

    In question are those that had newly entered, and where none had, all that were in flight.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return None
    found: dict[int, list[str]] = {IN_FLIGHT: [], ENTERED: []}
    for start in range(0, len(data) - SLOT + 1, SLOT):
        if (state := data[start + 16]) in found:
            found[state].append(str(uuid.UUID(bytes=data[start : start + 16])))
    return InFlight(tuple(found[ENTERED] or found[IN_FLIGHT]), alone=len(found[ENTERED]) + len(found[IN_FLIGHT]) == 1)
