"""A folder, and what lies below it, reached step by step without following a link: nobody leads us out of it."""

import errno
import io
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

# A file that is being written; older ones were left behind.
DRAFT = ".omni-results-"
LEFT_BEHIND_S = 3600.0
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Opening a FIFO must not wait for its other end.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Within:
    """An open folder."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    @contextmanager
    def of(cls, root: Path, relative: PurePosixPath | str = ".") -> "Iterator[Within]":
        """The folder `relative` below `root`; links are followed in `root` only."""
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in PurePosixPath(relative).parts:
                inner = os.open(part, FOLDER, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            yield cls(descriptor)
        finally:
            os.close(descriptor)

    def walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Everything but folders below here, as (relative path, its own stat); hidden folders are left out."""
        for path, folders, files, descriptor in os.fwalk(".", dir_fd=self.descriptor, follow_symlinks=False):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            # A link to a folder is listed among the folders, and not walked.
            for name in sorted([*files, *folders]):
                try:
                    found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                except OSError:
                    continue
                if not stat.S_ISDIR(found.st_mode):
                    yield os.path.normpath(os.path.join(path, name)), found

    def open(self, name: str) -> io.BufferedReader:
        """Raises OSError: not there, not readable, or a link."""
        return open(os.open(name, FILE, dir_fd=self.descriptor), "rb")

    def exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def draft(self, pieces: Iterator[bytes]) -> str:
        """A new file, safe on disk, under a name that nobody else has; returns it."""
        name = f"{DRAFT}{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(name, flags, 0o666, dir_fd=self.descriptor), "wb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            self.remove(name)
            raise
        return name

    def sweep(self) -> None:
        """Remove drafts that somebody who was killed has left behind."""
        with os.scandir(self.descriptor) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(DRAFT) and entry.name.endswith(".part")]
        for name in names:
            try:
                old = (
                    os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_mtime < time.time() - LEFT_BEHIND_S
                )
            except FileNotFoundError:
                continue
            if old:
                self.remove(name)

    def replace(self, name: str, by: str) -> None:
        os.replace(by, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def publish(self, name: str, draft: str) -> None:
        """Rename a draft.

        Raises:
            FileExistsError: somebody has that name; it is left alone.
        """
        try:
            os.link(draft, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            # A file system without links: a short moment in which another could take the name.
            if self.exists(name):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from error
            self.replace(name, draft)
            return
        self.remove(draft)

    def remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            pass
