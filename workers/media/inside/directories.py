"""The pages of a TIFF by its chain of directories, so that a damaged page hides no other.

Layout: a head with the offset of the first directory; a directory is a count, its entries, the offset of the next
(TIFF 6.0 section 2; BigTIFF has offsets and counts of 8 bytes and entries of 20).
"""

import io
from typing import Any

MOST = 10_001  # one more than is taken


def directories(file: Any) -> list[int]:
    """Offsets of the directories, one for each page; none for what is no TIFF.

    The last of a chain that leads out of the file is a page that cannot be read.
    """
    file.seek(0)
    head = file.read(16)
    order = "little" if head[:2] == b"II" else "big"
    if head[:2] not in (b"II", b"MM") or int.from_bytes(head[2:4], order) not in (42, 43):
        return []
    wide = int.from_bytes(head[2:4], order) == 43
    count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if wide else (2, 12, 4)
    found: dict[int, None] = {}
    at = int.from_bytes(head[8:16] if wide else head[4:8], order)
    while at and at not in found and len(found) < MOST and at < 1 << 63:
        found[at] = None
        file.seek(at)
        entries = int.from_bytes(file.read(count_bytes), order)
        if entries > 65_535:
            break
        file.seek(at + count_bytes + entries * entry_bytes)
        at = int.from_bytes(file.read(offset_bytes), order)
    return list(found)


def starting_at(file: Any, offset: int, *, descriptor: bool) -> Any:
    """The file as a TIFF of which the directory at `offset` is the first; with 0 the file as it is.

    With its descriptor a decoder need not read all of it, but sees the real first directory before it goes to that one.
    """
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    order = "little" if head[:2] == b"II" else "big"
    at, size = (8, 8) if int.from_bytes(head[2:4], order) == 43 else (4, 4)
    patch = offset.to_bytes(size, order)
    return file if not offset or head[at : at + size] == patch else _Patched(file, at, patch, descriptor)


class _Patched(io.RawIOBase):
    """A file of which a few bytes are others."""

    def __init__(self, file: Any, at: int, patch: bytes, descriptor: bool) -> None:
        self._file, self._at, self._patch, self._descriptor = file, at, patch, descriptor

    def fileno(self) -> int:
        return self._file.fileno() if self._descriptor else super().fileno()

    def close(self) -> None:
        """The file is another's, and so is its descriptor."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        begin = self._file.tell()
        data = self._file.read(size)
        low, high = max(begin, self._at), min(begin + len(data), self._at + len(self._patch))
        if low >= high:
            return data
        return data[: low - begin] + self._patch[low - self._at : high - self._at] + data[high - begin :]
