"""Spans in the object store, read as the one recording they were cut from."""

from itertools import pairwise

import numpy as np
import pytest

from workers.inputs import RATE_HZ, CanonicalAudio
from workers.recording import Recording

WHOLE = np.random.default_rng(0).integers(-9000, 9000, 5 * RATE_HZ + 77).astype(np.int16)
CUTS_S = (2.0, 3.2504, 3.7, 5.1, 7.0 + 77 / RATE_HZ)


def cut() -> tuple[list[tuple[str, float, float]], dict[str, bytes]]:
    """As `cutting` puts them: a recording that begins at 2 s of its source."""
    pieces, store = [], {}
    for start_s, end_s in pairwise(CUTS_S):
        first, last = (round((at_s - CUTS_S[0]) * RATE_HZ) for at_s in (start_s, end_s))
        pieces.append((f"k{first}", start_s, end_s))
        store[f"k{first}"] = CanonicalAudio(WHOLE[first:last], start_s).to_bytes()
    return pieces, store


def test_what_is_read_is_what_was_cut() -> None:
    pieces, store = cut()
    recording = Recording(pieces, store.__getitem__)
    assert (recording.start_s, recording.length) == (2.0, len(WHOLE))
    expected = WHOLE.astype(np.float32) / 32768.0
    for first, last in [(0, 10), (0, len(WHOLE)), (20_000, 20_010), (19_000, 60_000), (80_000, 10**6), (10**6, 10**7)]:
        found = recording.read(first, last)
        assert found.dtype == np.float32 and np.array_equal(found, expected[first:last])


def test_read_in_order_each_piece_is_fetched_once_and_two_are_held() -> None:
    pieces, store = cut()
    fetched: list[str] = []

    def load(key: str) -> bytes:
        fetched.append(key)
        return store[key]

    recording = Recording(pieces, load)
    for first in range(0, recording.length, 4000):
        recording.read(first, first + 6000)
    assert fetched == list(store)


@pytest.mark.parametrize("missing", [1, 100])
def test_a_piece_that_is_shorter_than_it_says_is_silent_at_its_end(missing: int) -> None:
    recording = Recording(
        [("k", 0.0, 1.0)], lambda _: CanonicalAudio(np.full(RATE_HZ - missing, 100, np.int16)).to_bytes()
    )
    found = recording.read(0, RATE_HZ)
    assert len(found) == RATE_HZ and not found[-missing:].any() and found[: RATE_HZ - missing].all()
