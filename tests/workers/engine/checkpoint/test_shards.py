"""Headers that lie, are cut short, or are no headers."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.checkpoint.shards import ShardError, read_header

HEADER = {
    "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "c": {"dtype": "F8_E4M3", "shape": [], "data_offsets": [20, 21]},
    "none": {"dtype": "F32", "shape": [0, 5], "data_offsets": [21, 21]},
}


def shard(path: Path, header: Any = HEADER, data: int = 21, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(data))
    return path


def changed(**entries: Any) -> dict[str, Any]:
    header = json.loads(json.dumps(HEADER))
    for name, change in entries.items():
        header[name] = change if not isinstance(change, dict) else {**header.get(name, {}), **change}
    return header


def test_a_header_gives_each_tensor_its_place(tmp_path: Path) -> None:
    path = shard(tmp_path / "x.safetensors")
    base = 8 + len(json.dumps(HEADER))
    found = {one.name: one for one in read_header(path)}
    assert list(found) == ["a", "b", "c", "none"]
    assert (found["b"].dtype, found["b"].shape, found["b"].start - base, found["b"].size_bytes) == (
        "BF16",
        (2, 3),
        8,
        12,
    )
    assert found["none"].size_bytes == 0 and found["c"].shape == ()


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (changed(a={"data_offsets": [0, 9]}), "a: expected offsets of F32"),
        (changed(a={"shape": [3]}), "a: expected offsets of F32"),
        (changed(a={"shape": [-2]}), "a: expected offsets"),
        (changed(a={"shape": [True, 2]}), "a: expected offsets"),
        (changed(a={"shape": [2.0]}), "a: expected offsets"),
        (changed(a={"shape": [1] * 9 + [2]}), "a: expected offsets"),
        (changed(a={"dtype": "F31"}), "a: expected dtype, shape and data_offsets"),
        (changed(a={"dtype": ["F32"]}), "a: expected dtype"),
        (changed(a={"data_offsets": [0]}), "a: expected dtype"),
        (changed(a=7), "a: expected dtype"),
        (changed(b={"data_offsets": [7, 19]}), "b: expected to begin at byte"),  # overlaps a
        (changed(b={"data_offsets": [9, 21]}), "expected to begin at byte"),  # a hole behind a
        (changed(z={"dtype": "U8", "shape": [21], "data_offsets": [0, 21]}), "expected to begin at byte"),
        (
            changed(z={"dtype": "U8", "shape": [2**62], "data_offsets": [21, 21 + 2**62]}),
            r"expected \d+ bytes as the header",
        ),
        (b'{"a": {}, "a": {}}', "a name stands there twice"),
        (b"[]", "expected a header that is an object, got list"),
        (b"[" * 200_000, "expected a header of JSON"),
        (b"\xff\xff\xff", "expected a header of JSON"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused(tmp_path: Path, header: Any, said: str) -> None:
    with pytest.raises(ShardError, match=said):
        read_header(shard(tmp_path / "x.safetensors", header))


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**40, 2**64 - 1])
def test_a_length_beyond_the_file_is_refused_before_anything_is_read(tmp_path: Path, length: int) -> None:
    with pytest.raises(ShardError, match=f"expected a header of 2 to .* bytes, got {length}"):
        read_header(shard(tmp_path / "x.safetensors", length=length))


def test_a_file_without_a_header_is_refused_with_its_size(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ShardError, match="expected a safetensors file of at least 10 bytes, got 0"):
        read_header(tmp_path / "empty")


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = shard(tmp_path / "whole").read_bytes()
    for kept in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:kept])
        with pytest.raises(ShardError):
            read_header(tmp_path / "cut")


def test_a_hole_that_all_that_follows_makes_room_for_is_refused(tmp_path: Path) -> None:
    moved = {
        name: {"data_offsets": [at + 1 for at in HEADER[name]["data_offsets"]]}  # type: ignore[index]
        for name in ("b", "c", "none")
    }
    with pytest.raises(ShardError, match="b: expected to begin at byte"):
        read_header(shard(tmp_path / "x.safetensors", changed(**moved), data=22))


def test_bytes_behind_the_last_tensor_are_refused_with_both_numbers(tmp_path: Path) -> None:
    path = shard(tmp_path / "x.safetensors", data=22)
    size = path.stat().st_size
    with pytest.raises(ShardError, match=f"expected {size - 1} bytes as the header says, got {size}"):
        read_header(path)


@given(st.binary(max_size=60), st.integers(0, 80))
def test_no_bytes_whatever_end_otherwise(tmp_path_factory: pytest.TempPathFactory, text: bytes, length: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(struct.pack("<Q", length) + text)
    try:
        found = read_header(path)
    except ShardError:
        return
    assert sum(one.size_bytes for one in found) == len(text) - length
