"""How much the drawing instructions of a PDF page unpack to, found out without unpacking more than allowed."""

import zlib
from collections.abc import Iterable, Iterator

import pymupdf

CHUNK = 1 << 16


def unpacks_beyond(document: pymupdf.Document, page: pymupdf.Page, most_bytes: int) -> bool:
    """Whether the contents of a page unpack to more than `most_bytes`; other filters than Flate count as they are."""
    total = 0
    for xref in page.get_contents():
        pieces: Iterator[bytes] = iter((document.xref_stream_raw(xref) or b"",))
        for _ in range(str(document.xref_get_key(xref, "Filter")[1]).count("FlateDecode")):
            pieces = _inflated(pieces)
        for piece in pieces:
            total += len(piece)
            if total > most_bytes:
                return True
    return False


def _inflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Unpacked bytes in bounded pieces; a damaged stream ends where it is damaged."""
    unpacker = zlib.decompressobj()
    for piece in pieces:
        try:
            yield unpacker.decompress(piece, CHUNK)
            while unpacker.unconsumed_tail:
                yield unpacker.decompress(unpacker.unconsumed_tail, CHUNK)
        except zlib.error:
            return
