"""Cutting sound and video into units: nothing is lost, nothing twice."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.inputs import Shot
from workers.media.cuts import clips, sample_times, shots, silences, spans

seconds = st.floats(0, 5000, allow_nan=False).map(lambda value: round(value, 3))
speech_of = st.lists(
    st.tuples(seconds, st.floats(0.05, 400)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=60
)
edges_of = st.lists(st.floats(0.04, 500), min_size=1, max_size=60)


def inside_speech(time: float, speech: list[tuple[float, float]]) -> bool:
    return any(begin < time < end for begin, end in speech)


@given(speech_of, st.floats(0.5, 20_000))
def test_spans_are_contiguous_and_cover_everything(speech: list[tuple[float, float]], duration_s: float) -> None:
    found = spans(speech, duration_s)
    assert found[0][0] == 0
    assert found[-1][1] == duration_s
    assert all(before[1] == after[0] for before, after in pairwise(found))
    assert all(0 < end - begin <= 360 + 1e-6 for begin, end in found)


@given(speech_of, st.floats(400, 20_000))
def test_a_cut_lies_in_speech_only_where_its_window_has_no_silence(
    speech: list[tuple[float, float]], duration_s: float
) -> None:
    quiet = silences(speech, 0, duration_s)
    for (begin, cut), _ in pairwise(spans(speech, duration_s)):
        if inside_speech(cut, speech):
            window = (begin + 150, begin + 360)
            assert not any(min(end, window[1]) - max(start, window[0]) > 1e-3 for start, end in quiet)


def test_the_cut_is_the_middle_of_the_longest_silence_near_the_target() -> None:
    speech = [(0.0, 290.0), (290.4, 310.0), (312.0, 700.0)]
    assert spans(speech, 700)[0] == (0.0, 311.0)


def test_no_crumb_is_left_at_the_end() -> None:
    assert spans([], 362) == [(0.0, 181.0), (181.0, 362)]
    assert spans([], 350) == [(0.0, 350)]


def test_unbroken_speech_is_cut_at_the_target() -> None:
    assert spans([(0, 1000)], 1000) == [(0.0, 300.0), (300.0, 600.0), (600.0, 800.0), (800.0, 1000)]


def test_spans_may_begin_later() -> None:
    assert spans([], 20.0, start_s=12.5) == [(12.5, 20.0)]


@given(edges_of)
def test_clips_hold_every_shot_once_and_are_short(lengths: list[float]) -> None:
    edges = [0.0]
    for length in lengths:
        edges.append(edges[-1] + length)
    made = shots(edges[1:-1], 0.0, edges[-1])
    grouped = clips(made)
    parts = [shot for clip in grouped for shot in clip]
    assert parts[0].start_s == 0
    assert parts[-1].end_s == edges[-1]
    assert all(before.end_s == after.start_s for before, after in pairwise(parts))
    assert {shot.start_s for shot in made} <= {shot.start_s for shot in parts}
    assert all(clip[-1].end_s - clip[0].start_s <= 120 + 1e-6 for clip in grouped)
    # Greedy: two neighbours never fit into one.
    assert all(b[0].end_s - a[0].start_s > 120 - 1e-6 for a, b in pairwise(grouped))


def test_a_long_shot_is_cut_at_two_minute_marks() -> None:
    grouped = clips([Shot(10, 300)])
    assert grouped == [(Shot(10, 130),), (Shot(130, 250),), (Shot(250, 300),)]


@given(edges_of, st.floats(0.1, 5))
def test_every_shot_is_looked_at_and_no_clip_too_often(lengths: list[float], frames_per_s: float) -> None:
    edges = [0.0]
    for length in lengths:
        edges.append(edges[-1] + length / 10)
    made = shots(edges[1:-1], 0.0, edges[-1])
    times = sample_times(made, frames_per_s)
    assert times == sorted(set(times))
    assert len(times) <= 128
    assert all(any(shot.start_s <= time < shot.end_s for time in times) for shot in made)


def test_samples_are_uniform() -> None:
    assert sample_times([Shot(10, 14)], 1.0) == pytest.approx([10.5, 11.5, 12.5, 13.5])
    assert len(sample_times([Shot(0, 120)])) == 120
    assert len(sample_times([Shot(index * 0.1, (index + 1) * 0.1) for index in range(1000)])) == 128
    assert sample_times([]) == []
