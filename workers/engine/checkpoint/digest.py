"""A name for the weights: the same wherever and however they are split into files, another one when they change.

It is the SHA-256 of config.json (keys sorted), of every tensor's name, dtype and shape in the order of the names, and
of up to three pieces of 4 KiB of each tensor's bytes: its first, middle and last. So 62 GB are named by reading 90 MB.
It tells releases, formats and fine-tunes apart; it is no proof that no byte between the pieces was changed.
"""

import hashlib
import json

from workers.engine.checkpoint.directory import Directory
from workers.engine.checkpoint.shards import Stored
from workers.engine.sections import read_json

PIECE_BYTES = 4096


def digest_of(directory: Directory) -> str:
    """64 hex digits."""
    whole = hashlib.sha256(json.dumps(read_json(directory.path / "config.json"), sort_keys=True).encode())
    for name in sorted(directory.stored):
        one = directory.stored[name]
        whole.update(f"\n{name} {one.dtype} {list(one.shape)}\n".encode())
        data = memoryview(directory.map_of(one.path))
        for start, end in _pieces(one):
            whole.update(data[start:end])
    return whole.hexdigest()


def _pieces(one: Stored) -> list[tuple[int, int]]:
    if one.size_bytes <= 3 * PIECE_BYTES:
        return [(one.start, one.end)]
    middle = (one.start + one.end - PIECE_BYTES) // 2
    return [(start, start + PIECE_BYTES) for start in (one.start, middle, one.end - PIECE_BYTES)]
