"""Turns of a whole recording, with models that hear who speaks by the height of a square wave."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.workers.speech.square import SquareVoices, recording
from workers.speech.speakers import NO_PRINT, Turn, Voice, turns_of, voices_of
from workers.speech.voices import PRINT, RATE_HZ, features

TALK = [(0.5, 4.0, "a"), (4.5, 9.0, "b"), (9.0, 21.0, "a"), (22.0, 24.0, "c"), (24.5, 40.0, "b"), (41.0, 55.5, "c")]


def turns(samples: NDArray[np.float32]) -> list[Turn]:
    return turns_of(lambda first, last: samples[first:last], len(samples), SquareVoices())


def test_turns_are_where_the_voices_are_and_named_as_they_come() -> None:
    found = turns(recording(TALK))
    names = {"a": "S1", "b": "S2", "c": "S3"}
    assert [turn.speaker for turn in found] == [names[voice] for _, _, voice in TALK]
    for turn, (start_s, end_s, _) in zip(found, TALK, strict=True):
        assert (turn.start_s, turn.end_s) == (pytest.approx(start_s, abs=0.05), pytest.approx(end_s, abs=0.05))


def test_two_at_once_are_two_turns() -> None:
    found = turns(recording([(0.0, 6.0, "a"), (6.0, 8.0, "ab"), (8.0, 14.0, "b"), (15.0, 19.0, "a")]))
    assert [(turn.speaker, round(turn.start_s), round(turn.end_s)) for turn in found] == [
        ("S1", 0, 8),
        ("S2", 6, 14),
        ("S1", 15, 19),
    ]


def test_the_same_voice_keeps_its_name_through_a_long_recording() -> None:
    talk = [(at_s + 0.2, at_s + 5.8, "abc"[at_s // 6 % 3]) for at_s in range(0, 240, 6)]
    found = turns(recording(talk))
    assert [turn.speaker for turn in found] == ["S1", "S2", "S3"] * (len(talk) // 3) + ["S1", "S2"][: len(talk) % 3]


@pytest.mark.parametrize("length_s", [0.0, 0.01, 0.3, 3.0, 10.0, 12.4, 12.5, 31.7])
def test_no_turn_leaves_the_recording(length_s: float) -> None:
    samples = recording([(0.0, length_s, "a")])
    found = turns(samples)
    assert all(0 <= turn.start_s < turn.end_s <= round(length_s, 3) for turn in found)
    assert len(found) == (1 if length_s > 0.1 else 0)


def test_silence_has_no_turns() -> None:
    assert turns(np.zeros(30 * RATE_HZ, np.float32)) == []


def test_a_short_pause_does_not_end_a_turn() -> None:
    found = turns(recording([(1.0, 4.0, "a"), (4.2, 8.0, "a"), (8.6, 12.0, "a")]))
    assert [(round(turn.start_s, 1), round(turn.end_s, 1)) for turn in found] == [(1.0, 8.0), (8.6, 12.0)]


def test_the_recording_is_asked_for_in_order_and_little_at_a_time() -> None:
    samples, asked = recording([(0.0, 60.0, "a")]), []

    def read(first: int, last: int) -> NDArray[np.float32]:
        asked.append((first, last))
        return samples[first:last]

    turns_of(read, len(samples), SquareVoices())
    assert asked == sorted(asked) and max(last - first for first, last in asked) <= 11 * RATE_HZ
    assert max(last for _, last in asked) == len(samples)


def test_progress_rises_to_one_and_what_it_raises_ends_the_work() -> None:
    samples, seen = recording([(0.0, 40.0, "a")]), []
    turns_of(lambda first, last: samples[first:last], len(samples), SquareVoices(), on_progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0

    def enough(progress: float) -> None:
        if progress > 0.3:
            raise InterruptedError

    heard = SquareVoices()
    with pytest.raises(InterruptedError):
        turns_of(lambda first, last: samples[first:last], len(samples), heard, on_progress=enough)
    assert heard.windows < 8


def test_a_track_of_two_people_is_two_voices() -> None:
    one, other = np.eye(PRINT, dtype=np.float32)[:2]
    track = [
        Voice(0, 1, ((0, 90),), 1.5, one),
        Voice(0, 1, ((110, 115),), 0.1, NO_PRINT),
        Voice(0, 1, ((120, 300),), 3.0, other),
        Voice(0, 1, ((310, 420),), 1.8, one),
    ]
    first, second = voices_of(track)
    assert (first.runs, second.runs) == (((0, 90), (310, 420)), ((110, 115), (120, 300)))
    assert (first.seconds, second.seconds, first.track) == (pytest.approx(3.3), pytest.approx(3.1), 1)
    assert np.allclose(first.print, one) and np.allclose(second.print, other)
    assert voices_of([track[1]]) == [] and voices_of([]) == []


def test_features_are_those_of_a_tone() -> None:
    tone = (0.3 * np.sin(2 * np.pi * 1000 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)
    found = features(tone)
    assert found.shape == (98, 80) and found.dtype == np.float32
    # 1 kHz is 1000 mel, 31.75 of them on 2840: the 28th of 80 triangles.
    assert set(found.argmax(1).tolist()) == {27}
    assert features(tone[:399]).shape == (0, 80) and features(tone[:400]).shape == (1, 80)
