"""When a sentence was said, as far as its place in the text and the pauses tell."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.backends.asking.spans import segments_of

ONE = [(2.0, 12.0)]


def times(text: str, heard: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(one.start_s, one.end_s) for one in segments_of(text, heard)]


def test_speech_is_shared_out_by_length() -> None:
    assert times("Abcdefghij. Abcdefghij.", ONE) == [(2.0, 7.0), (7.0, 12.0)]
    assert times("Abcd. Abcdefghijklmnopqr.", ONE)[0] == pytest.approx((2.0, 2.0 + 10 * 6 / 26), abs=0.01)


def test_a_sentence_ends_in_the_pause_that_is_near() -> None:
    heard = [(2.0, 6.0), (9.0, 15.0)]
    assert times("Abcdefghij. Abcdefghij.", heard) == [(2.0, 6.0), (9.0, 15.0)]
    # A long one rather than a short one that is a little nearer.
    heard = [(0.0, 4.6), (4.7, 6.0), (8.0, 12.0)]
    assert times("Abcdefghij. Abcdefghij.", heard)[0] == (0.0, 6.0)


def test_a_pause_that_is_far_draws_nothing() -> None:
    assert times("Abcdefghij. Abcdefghij.", [(0.0, 2.0), (5.0, 23.0)]) == [(0.0, 13.0), (13.0, 23.0)]


def test_nothing_said_is_no_segment() -> None:
    assert times(" \n", ONE) == [] and times("Hello.", []) == []


@given(
    st.lists(st.text("ab .!?", min_size=1), min_size=1),
    st.lists(st.floats(0.05, 20.0), min_size=2, max_size=20),
)
def test_times_rise_and_lie_in_what_was_heard(texts: list[str], steps: list[float]) -> None:
    edges = [sum(steps[: k + 1]) for k in range(len(steps) // 2 * 2)]
    heard = list(zip(edges[::2], edges[1::2], strict=True))
    found = times(" ".join(texts), heard)
    assert all(heard[0][0] - 0.01 <= a <= b + 0.001 <= heard[-1][1] + 0.01 for a, b in found)
    assert all(a[0] <= b[0] and a[1] <= b[0] + 0.001 for a, b in pairwise(found))
