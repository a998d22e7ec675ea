"""A watched folder: its files are copied into the object store as they are taken; results lie beside them."""

import errno
import io
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from omni_jobs.errors import UsageError
from omni_jobs.intake.beside import put_beside
from omni_jobs.intake.lister import Changed, NoPlace, Seen, Stopped
from omni_jobs.intake.names import is_hidden, is_media
from omni_jobs.intake.outputs import Output
from omni_jobs.intake.submit import Intake, Submission
from omni_jobs.intake.terms import NONE, Terms
from omni_jobs.intake.within import Within
from omni_jobs.store.database import new_id

KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
NEVER = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO})
NO_PLACE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
)


class Folder:
    """Raises UsageError where there is no such folder."""

    def __init__(self, path: Path, max_bytes: int, terms: Terms = NONE) -> None:
        try:
            self._root = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise UsageError(f"cannot watch {path}: {error}") from error
        if not self._root.is_dir():
            raise UsageError(f"cannot watch {path}: it is not a folder")
        self._max_bytes, self._terms = max_bytes, terms

    @property
    def name(self) -> str:
        return self._root.as_uri()

    def look(self) -> Iterator[Seen]:
        with Within.of(self._root) as root:
            for path, found in root.walk():
                if is_media(path) or (stat.S_ISLNK(found.st_mode) and self._leads_to_folder(path)):
                    yield Seen(_shown(path), version_of(found), found.st_size, self._fault(path, found))

    def take(self, seen: Seen, intake: Intake, ledger_id: str, stop: threading.Event) -> None:
        path = PurePosixPath(seen.object)
        job_id = new_id()
        with self._opened(path) as file:
            if version_of(os.fstat(file.fileno())) != seen.version:
                raise Changed(f"{path} has changed")
            try:
                stored = intake.keep(job_id, io.BufferedReader(_Stoppable(file, stop), 1 << 20))
                if version_of(os.fstat(file.fileno())) != seen.version or stored.size_bytes != seen.size_bytes:
                    raise Changed(f"{path} changed while it was read")
            except BaseException:
                intake.drop(job_id)
                raise
        intake.submit(
            Submission(
                uri=(self._root / path).as_uri(),
                stored=stored,
                name=path.name,
                job_id=job_id,
                origin="folder",
                **self._terms.fields(),
                origin_ref={"watch": self.name, "path": seen.object, "version": seen.version},
                ledger_id=ledger_id,
            )
        )

    def give(self, object: str, outputs: Sequence[Output]) -> None:
        path = PurePosixPath(object)
        try:
            with Within.of(self._root, path.parent) as folder:
                put_beside(folder, path.name, outputs)
        except OSError as error:
            # Without the root itself, such as a share that is not mounted, another try does help.
            if error.errno not in NO_PLACE or not self._root.is_dir():
                raise
            raise NoPlace(f"results cannot be put beside {path}: {error.strerror}; the API has them") from error

    def _opened(self, path: PurePosixPath) -> io.BufferedReader:
        try:
            with Within.of(self._root, path.parent) as folder:
                file = folder.open(path.name)
        except (FileNotFoundError, NotADirectoryError) as error:
            # The latter also where a folder has become a link.
            raise Changed(f"{path} is gone") from error
        except OSError as error:
            if error.errno not in NEVER:
                raise
            raise UsageError(f"it cannot be read: {error.strerror}; touch it once it can") from error
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise Changed(f"{path} is no longer a file")
        return file

    def _fault(self, path: str, found: os.stat_result) -> str:
        if not stat.S_ISREG(found.st_mode):
            return f"it is {KINDS.get(stat.S_IFMT(found.st_mode), 'no file')}, which is not followed"
        if _shown(path) != path:
            return "its name is not UTF-8"
        if found.st_size > self._max_bytes:
            return f"it has {found.st_size} bytes, the most is {self._max_bytes}"
        return ""

    def _leads_to_folder(self, path: str) -> bool:
        return not is_hidden(path) and (self._root / path).is_dir()


class _Stoppable(io.RawIOBase):
    """A reader that ends with an error when we are to end."""

    def __init__(self, file: io.BufferedReader, stop: threading.Event) -> None:
        self._file, self._stop = file, stop

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._stop.is_set():
            raise Stopped("told to end")
        return self._file.readinto(buffer)


def version_of(found: os.stat_result) -> str:
    return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"


def _shown(path: str) -> str:
    """A path as text: bytes that are not UTF-8 are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
