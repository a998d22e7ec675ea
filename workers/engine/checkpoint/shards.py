"""The header of one safetensors file, read without trusting a byte of it.

    8 bytes: length n of the header, little endian | n bytes: JSON | the tensors' bytes, gapless, to the end of the file

Source: the format's own page, https://github.com/huggingface/safetensors#format; the limits on the header are its.
"""

import json
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000
LEAST_BYTES = 8 + len(b"{}")
MAX_DIMENSIONS = 8


class ShardError(ValueError):
    """The file is no safetensors file, or not all of one."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file: `[start, end)` are bytes of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        return self.end - self.start


def read_header(path: Path) -> list[Stored]:
    """The tensors of one file, in the order of their bytes.

    Raises:
        ShardError: what the header says and what the file holds differ.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < LEAST_BYTES:
            raise ShardError(f"expected a safetensors file of at least {LEAST_BYTES} bytes, got {size}")
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise ShardError(f"expected a header of 2 to {min(MAX_HEADER_BYTES, size - 8)} bytes, got {length}")
        text = file.read(length)
    base = 8 + length
    stored = [_stored(name, entry, path, base) for name, entry in _entries(text).items()]
    stored.sort(key=lambda one: (one.start, one.end))
    at = base
    for one in stored:
        if one.start != at:
            raise ShardError(f"{one.name}: expected to begin at byte {at}, got {one.start}")
        at = one.end
    if at != size:
        raise ShardError(f"expected {at} bytes as the header says, got {size}")
    return stored


def _entries(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"expected a header of JSON, got something else: {str(error)[:100]}") from error
    if not isinstance(header, dict):
        raise ShardError(f"expected a header that is an object, got {type(header).__name__}")
    header.pop("__metadata__", None)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _stored(name: str, entry: Any, path: Path, base: int) -> Stored:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        item_bytes = ITEM_BYTES[dtype]
        plain = all(type(one) is int and one >= 0 for one in (*shape, start, end))
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{name[:200]}: expected dtype, shape and data_offsets, got {str(entry)[:100]}") from error
    if not plain or len(shape) > MAX_DIMENSIONS or end - start != item_bytes * prod(shape):
        raise ShardError(f"{name[:200]}: expected offsets of {dtype} {str(shape)[:80]}, got {start} to {end}")
    return Stored(name, dtype, tuple(shape), path, base + start, base + end)
