"""Files of a repository, several at a time, each from where it stopped and none under its name before it is proven.

What has come lies in `NAME.part`, written without a buffer: whatever ends the process, the next one goes on there. All
of a file is read again before more is added to it, so the digest is that of the bytes on the disk.
"""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from omni_jobs.errors import Damaged, OmniError, Refused
from omni_jobs.models.hub import Hub, HubDown, Repository
from omni_jobs.models.record import ModelFile, part_of
from omni_jobs.models.store import sync_folder

STREAMS = 4
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # between attempts that brought nothing
BLOCK_BYTES = 1 << 20

Moved = Callable[[int], None]


class Mismatch(Damaged):
    """What the hub sent is not what it said it would send."""


class NoRoom(Refused):
    """The disk is full, or would be."""


class Stopped(OmniError):
    """Another file failed, or we were interrupted; what came is kept."""


def fetch(hub: Hub, repository: Repository, files: Sequence[ModelFile], folder: Path, moved: Moved) -> list[ModelFile]:
    """Brings the files into the folder, and returns them with their SHA-256.

    Args:
        moved: is told how many more bytes are here; negative when some had to be dropped. Called by several threads.

    Raises:
        HubDown: it stayed away, however often it was asked.
        Mismatch: a file has another size or digest than the hub said; what came of it is deleted.
        NoRoom: the disk is full.
        NotFound, Refused, Unavailable: as `Hub.open`.
    """
    stop = threading.Event()
    largest_first = sorted(files, key=lambda file: -file.size_bytes)
    with disk_errors(folder), ThreadPoolExecutor(STREAMS, "fetch") as pool:
        try:
            running = {
                file.name: pool.submit(Download(hub, repository, file, folder, moved, stop).run)
                for file in largest_first
            }
            done, _ = wait(running.values(), return_when=FIRST_EXCEPTION)
            failed = [error for error in (one.exception() for one in done if not one.cancelled()) if error is not None]
            if failed:
                raise failed[0]
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        sync_folder(folder)
        return [running[file.name].result() for file in files]


class Download:
    """One file."""

    def __init__(
        self, hub: Hub, repository: Repository, file: ModelFile, folder: Path, moved: Moved, stop: threading.Event
    ) -> None:
        self._hub, self._repository, self._file = hub, repository, file
        self._moved, self._stop = moved, stop
        self._path = folder / file.name
        self._sums = Sums(file)

    def run(self) -> ModelFile:
        part = part_of(self._path)
        if self._path.exists():
            # An earlier run finished it. It is read again like any other beginning.
            self._path.replace(part)
        with open(part, "a+b", buffering=0) as out:
            resumed = self._read_again(out)
            self._receive(out)
            if resumed and self._sums.problem:
                # It may be of another revision, or too long, or a power cut left holes.
                self._start_over(out)
                self._receive(out)
            if self._sums.problem:
                self._start_over(out)
                raise Mismatch(f"{self._file.name}: {self._sums.problem}; what came is deleted: add the model again")
            os.fsync(out.fileno())
        part.replace(self._path)
        return replace(self._file, sha256=self._sums.sha256)

    def _read_again(self, out: BinaryIO) -> int:
        out.seek(0)
        while block := out.read(BLOCK_BYTES):
            self._check()
            self._count(block)
        return self._sums.count

    def _receive(self, out: BinaryIO) -> None:
        pauses = iter(PAUSES_S)
        while (before := self._sums.count) < self._file.size_bytes:
            try:
                self._take(out)
            except HubDown:
                if self._sums.count > before:
                    pauses = iter(PAUSES_S)
                pause_s = next(pauses, None)
                if pause_s is None:
                    raise
                self._stop.wait(pause_s)
            self._check()

    def _take(self, out: BinaryIO) -> None:
        with self._hub.open(self._repository, self._file.name, self._sums.count) as (start, pieces):
            if start != self._sums.count:
                self._start_over(out)
            for piece in pieces:
                self._check()
                if self._sums.count + len(piece) > self._file.size_bytes:
                    self._start_over(out)
                    raise Mismatch(f"{self._file.name}: expected {self._file.size_bytes:,} bytes, got more")
                _write(out, piece)
                self._count(piece)
        if self._sums.count < self._file.size_bytes:
            raise HubDown(f"{self._file.name}: {self._hub.host} breaks off after {self._sums.count:,} bytes")

    def _count(self, data: bytes) -> None:
        self._sums.add(data)
        self._moved(len(data))

    def _start_over(self, out: BinaryIO) -> None:
        self._moved(-self._sums.count)
        self._sums = Sums(self._file)
        out.truncate(0)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped(f"{self._file.name}: stopped")


class Sums:
    """The digests of a file, as far as it has been read."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        # As git names a blob. No proof against a forger, but all that the hub has for its small files.
        self._git = hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)
        self.count = 0

    def add(self, data: bytes) -> None:
        self.count += len(data)
        self._sha256.update(data)
        if self._file.git_sha1:
            self._git.update(data)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def problem(self) -> str:
        """What is wrong with all that was read; empty when nothing is."""
        if self._file.sha256 and self.sha256 != self._file.sha256:
            return f"expected sha-256 {self._file.sha256}, got {self.sha256}"
        if self._file.git_sha1 and self._git.hexdigest() != self._file.git_sha1:
            return f"expected the git blob {self._file.git_sha1}, got {self._git.hexdigest()}"
        return ""


def _write(out: BinaryIO, data: bytes) -> None:
    # Without a buffer a write may take part of it: on a disk that is nearly full, say.
    left = memoryview(data)
    while left:
        left = left[out.write(left) :]


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """What the system says of a disk, as our errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom(f"{folder}: the disk is full; what came is kept: make room and add the model again") from error
        raise Refused(f"{folder}: cannot be written: {error.strerror or error}") from error
