"""The files of a result on the user's disk: names, collisions, and writing without ever overwriting.

All files of a job share one name. It is the source's without its extension; where that is taken, by another argument or
by a file with other content, the full name; then the full name and a number. A source of the run is never written over,
not even by force. A file that is there already with the same content is the result: running a command twice leaves one
set of files.
"""

import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

from omni_jobs.errors import UsageError
from omni_jobs.formats import FILED, SUFFIX_OF
from omni_jobs.intake.names import LONGEST_NAME_BYTES, fitting

# A file name has at most 255 bytes; the longest suffix and a number need room.
CHUNK_BYTES = 1 << 20

Fetch = Callable[[str], Iterable[bytes]]


class Shelf:
    """The folder that results are put into, and the names given out in this run."""

    def __init__(self, folder: Path, sources: Sequence[Path], *, force: bool) -> None:
        self.folder = folder
        self._force = force
        # Decided at once and in the order of the arguments: it does not matter which job ends first.
        self._names = _distinct(sources)
        self._taken = set(self._names.values())
        self._sources = {_real(source) for source in sources}
        self._inodes = {inode for source in sources if (inode := _inode(source))}

    def put(self, source: Path, formats: Iterable[str], fetch: Fetch) -> dict[str, Path]:
        """Writes the files of one job.

        Args:
            source: one of the shelf's sources.
            formats: what the job has; the manifest is left out.
            fetch: the bytes of one format.

        Returns:
            The file of each format, whether written now or found with the same content.

        Raises:
            OSError: the folder does not take them.
        """
        with ExitStack() as drafts:
            written: dict[str, Path] = {}
            for format in FILED:
                if format in set(formats):
                    written[format] = path = self.folder / f".omni-{secrets.token_hex(8)}.part"
                    drafts.callback(path.unlink, missing_ok=True)
                    _write(path, fetch(format))
            for name in self._candidates(source):
                placed = self._place(name, written)
                if placed is not None:
                    self._taken.add(name)
                    return placed
        raise AssertionError("there is always one more number")

    def _candidates(self, source: Path) -> Iterator[str]:
        yield (mine := self._names[source])
        yield from (name for name in _names_for(source) if name != mine and name not in self._taken)

    def _place(self, name: str, drafts: Mapping[str, Path]) -> dict[str, Path] | None:
        """Moves the drafts to their names; None, and nothing is changed, when one is taken."""
        targets = {format: self.folder / f"{name}{SUFFIX_OF[format]}" for format in drafts}
        if any(self._is_source(target) for target in targets.values()):
            return None
        if self._force:
            for format, target in targets.items():
                os.replace(drafts[format], target)
            return targets
        new = {format: target for format, target in targets.items() if not os.path.lexists(target)}
        if not all(_same(drafts[format], target) for format, target in targets.items() if format not in new):
            return None
        placed: list[Path] = []
        for format, target in new.items():
            try:
                _rename_new(drafts[format], target)
            except FileExistsError:  # somebody wrote it just now
                for path in placed:
                    path.unlink(missing_ok=True)
                return None
            placed.append(target)
        return targets

    def _is_source(self, target: Path) -> bool:
        """Whether writing there would destroy what a job of this run is made of, under whichever name."""
        return _real(target) in self._sources or _inode(target) in self._inodes


def require_writable(target: Path) -> None:
    """
    Raises:
        UsageError: it is a folder.
    """
    if target.is_dir():
        raise UsageError(f"-o: expected a file to write, got the folder {target}")


def write_whole(target: Path, chunks: Iterable[bytes]) -> None:
    """Writes a file that its reader sees whole or not at all; replaces what was there.

    A device or a pipe is written to as it is.
    """
    if target.exists() and not target.is_file():
        with open(target, "wb") as file:
            file.writelines(chunks)
        return
    draft = target.with_name(f".omni-{secrets.token_hex(8)}.part")
    try:
        _write(draft, chunks)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _real(path: Path) -> str:
    """The place of a directory entry: links on the way to it are followed, a link that it is itself is not."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _distinct(sources: Sequence[Path]) -> dict[Path, str]:
    names: dict[Path, str] = {}
    taken: Counter[str] = Counter()
    for source in dict.fromkeys(sources):
        names[source] = next(name for name in _names_for(source) if not taken[name])
        taken[names[source]] += 1
    return names


def _names_for(source: Path) -> Iterator[str]:
    yield fitting(source.stem)
    full = fitting(source.name)
    yield full
    for number in count(2):
        yield f"{full}.{number}"


def _too_long(name: str) -> bool:
    return len(os.fsencode(name)) > LONGEST_NAME_BYTES


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    with open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)


def _rename_new(draft: Path, target: Path) -> None:
    """As rename, but refuses to replace.

    Raises:
        FileExistsError: there is such a file.
    """
    try:
        os.link(draft, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links here
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.rename(draft, target)


def _same(draft: Path, target: Path) -> bool:
    if not target.is_file():
        return False
    if target.name.endswith(SUFFIX_OF["json"]):
        return _same_bytes(draft, target) or _same_result(draft, target)
    return _same_bytes(draft, target)


def _same_bytes(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with open(one, "rb") as a, open(other, "rb") as b:
        while chunk := a.read(CHUNK_BYTES):
            if chunk != b.read(CHUNK_BYTES):
                return False
    return True


def _same_result(one: Path, other: Path) -> bool:
    """Whether two results say the same about the same bytes; a job that was answered by reuse has its own ids."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        return _statement(json.loads(one.read_bytes())) == _statement(json.loads(other.read_bytes()))
    return False


def _statement(result: dict[str, Any]) -> dict[str, Any]:
    job = {name: value for name, value in result["job"].items() if name in ("state", "options")}
    sources = [
        {name: value for name, value in source.items() if name not in ("source_id", "uri")}
        for source in result["sources"]
    ]
    return {**result, "job": job, "sources": sources}
