import numpy as np
import pytest
from numpy.typing import NDArray

from workers.speech.activity import joined, level_dbfs, speech_spans, uncovered

SECOND = 16_000


def tone(seconds: float, hz: float = 440.0, height: float = 8000.0) -> NDArray[np.int16]:
    return (height * np.sin(2 * np.pi * hz * np.arange(int(seconds * SECOND)) / SECOND)).astype(np.int16)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.int16),
        np.zeros(1, np.int16),
        np.zeros(5 * SECOND, np.int16),
        np.full(5 * SECOND, 9000, np.int16),
        tone(5),
        np.random.default_rng(0).normal(0, 3000, 5 * SECOND).astype(np.int16),
    ],
    ids=["nothing", "one sample", "silence", "constant", "tone", "white noise"],
)
def test_what_is_no_speech_gives_no_span(samples: NDArray[np.int16]) -> None:
    assert speech_spans(samples) == []


def test_a_map_in_a_file_is_read_like_an_array(tmp_path) -> None:
    samples = np.random.default_rng(1).normal(0, 900, 70 * SECOND).astype(np.int16)
    np.save(tmp_path / "long.npy", samples)
    seen: list[float] = []
    mapped = np.load(tmp_path / "long.npy", mmap_mode="r")
    assert speech_spans(mapped, on_progress=seen.append) == speech_spans(samples)
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_a_level_is_relative_to_full_scale() -> None:
    assert level_dbfs(np.zeros(10, np.int16)) == level_dbfs(np.zeros(0, np.int16)) == -120.0
    assert level_dbfs(tone(1, height=32767.0)) == pytest.approx(-3.01, abs=0.01)


def test_speech_without_a_word_is_uncovered_when_it_is_long_enough() -> None:
    speech = [(0.0, 4.0), (5.0, 6.0), (8.0, 12.0)]
    assert uncovered(speech, []) == [(0.0, 4.0), (8.0, 12.0)]
    assert uncovered(speech, [(0.5, 1.0), (2.4, 3.0), (8.0, 12.0)]) == []
    assert uncovered(speech, [(0.5, 1.0), (8.0, 9.0), (11.9, 13.0)]) == [(1.0, 4.0), (9.0, 11.9)]
    assert uncovered([(0.0, 10.0)], [(3.0, 6.0), (4.0, 5.0)]) == [(0.0, 3.0), (6.0, 10.0)]


def test_neighbours_are_joined_up_to_a_length_and_long_speech_is_cut() -> None:
    spans = [(0.0, 10.0), (11.0, 20.0), (21.0, 32.0), (40.0, 100.0)]
    assert joined(spans, longest_s=29.0) == [(0.0, 20.0), (21.0, 32.0), (40.0, 60.0), (60.0, 80.0), (80.0, 100.0)]
    assert joined(spans[:2], longest_s=29.0, pause_s=0.5) == spans[:2]
