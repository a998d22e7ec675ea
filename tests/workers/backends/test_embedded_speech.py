import multiprocessing
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_jobs.errors import OmniError, Refused, SourceError, UsageError
from workers.answers import SpanAnswer, SpokenSegment
from workers.backends.backend import Cancelled
from workers.backends.embedded import weights
from workers.inputs import CanonicalAudio

pytest.importorskip("faster_whisper")
from workers.backends.embedded.speech import (
    WINDOW_S,
    Speech,
    cut_long,
    doubtful,
    looping,
    merged,
    padded,
    windows,
    words_of,
)

START_S = 60.0


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def speech(cache: Path) -> Speech:
    return Speech(weights.whisper_folder("base", cache), threads=2)


@pytest.fixture(scope="module")
def reading(lj001: NDArray[np.int16]) -> CanonicalAudio:
    return CanonicalAudio(lj001, START_S)


def ask(speech: Speech, audio: CanonicalAudio, language: str = "", rung: int = 0, **more: object) -> SpanAnswer:
    return speech.transcribe(
        audio, language=language, rung=rung, cancelled=lambda: False, on_progress=lambda done: None, **more
    )


def text_of(answer: SpanAnswer) -> str:
    return " ".join(segment.text for segment in answer.segments)


def noise(height: float = 3000.0) -> CanonicalAudio:
    return CanonicalAudio(np.random.default_rng(5).normal(0, height, 160_000).astype(np.int16))


def tones() -> CanonicalAudio:
    at = np.arange(160_000) / 16_000
    chord = sum(np.sin(2 * np.pi * hz * at) for hz in (220, 277, 330)) * (1 + np.sin(4 * np.pi * at))
    return CanonicalAudio((chord * 3000).astype(np.int16))


@pytest.mark.parametrize(
    "audio",
    [CanonicalAudio(np.zeros(0, np.int16)), CanonicalAudio(np.zeros(160_000, np.int16)), noise(), tones()],
    ids=["nothing", "silence", "noise", "chord"],
)
def test_no_words_are_invented(speech: Speech, audio: CanonicalAudio) -> None:
    for rung in (0, 1):
        answer = ask(speech, audio, rung=rung)
        assert answer.segments == [] and answer.language == ""


def test_speech_is_heard_and_timed_in_seconds_of_the_source(speech: Speech, reading: CanonicalAudio) -> None:
    answer = ask(speech, reading)
    assert answer.language == "en" and (answer.language_confidence or 0) > 0.9 and answer.method == "spans"
    assert "in the only sense with which we are at present concerned" in text_of(answer)
    edges = [time_s for segment in answer.segments for time_s in (segment.start_s, segment.end_s)]
    assert edges == sorted(edges) and edges[0] >= START_S and edges[-1] <= START_S + reading.duration_s


def test_the_answer_does_not_depend_on_what_came_before(speech: Speech, reading: CanonicalAudio) -> None:
    first = ask(speech, reading, "en")
    ask(speech, CanonicalAudio(reading.samples[::-1].copy()), "en")
    ask(speech, noise(200.0), "de", rung=1)
    assert ask(speech, reading, "en") == first


def test_utterances_and_ranges_are_asked_alone(speech: Speech, reading: CanonicalAudio) -> None:
    answer = ask(speech, reading, "en", rung=1)
    assert answer.method == "utterances" and "present concerned" in text_of(answer)
    part = ask(speech, reading, "en", rung=1, ranges=[(START_S, START_S + 1.0)])
    assert "printing" in text_of(part).lower() and "concerned" not in text_of(part)
    assert ask(speech, reading, "en", ranges=[(0.0, 5.0)]).segments == []


def test_whisper_times_the_words_that_nobody_aligns(speech: Speech, reading: CanonicalAudio) -> None:
    answer = ask(speech, reading, "en", aligned=())
    assert answer.segments
    for segment in answer.segments:
        assert [word.text for word in segment.words] == segment.text.split()
        assert all(a.start_s <= b.start_s for a, b in pairwise(segment.words))
        assert {word.method for word in segment.words} == {"whisper"}
    left_to_the_aligner = ask(speech, reading, "en")
    assert text_of(left_to_the_aligner) and not any(segment.words for segment in left_to_the_aligner.segments)


def test_a_call_can_be_cancelled_and_reports_progress(speech: Speech, reading: CanonicalAudio) -> None:
    with pytest.raises(Cancelled):
        speech.transcribe(reading, language="en", rung=0, cancelled=lambda: True, on_progress=lambda done: None)
    seen: list[float] = []
    speech.transcribe(reading, language="en", rung=0, cancelled=lambda: False, on_progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_a_language_the_model_does_not_know_is_an_error(speech: Speech, cache: Path) -> None:
    with pytest.raises(SourceError, match="`xx`"):
        ask(speech, noise(), "xx")
    tiny = Speech(weights.whisper_folder("fast", cache), threads=1)
    assert tiny.languages == ("en",)
    with pytest.raises(SourceError, match="English only"):
        ask(tiny, noise(), "es")


def test_loops_and_unlikely_text_are_left_out() -> None:
    def said(text: str, confidence: float = 0.8, no_speech: float = 0.0) -> SpokenSegment:
        return SpokenSegment(start_s=0, end_s=1, text=text, confidence=confidence, no_speech=no_speech)

    assert looping("you know, you know, you know, you know, you know, you know")
    assert not looping("Thou also, thou also. No, no, no, no.")
    assert doubtful(said("Thank you.", 0.3, 0.7), 1.0)
    assert not doubtful(said("Thank you.", 0.8, 0.7), 1.0)
    assert not doubtful(said("Thank you.", 0.3, 0.1), 1.0)
    assert doubtful(said("na na na"), 2.5)


def test_windows_never_share_sound_and_keep_to_thirty_seconds() -> None:
    speech = [(0.1, 10.0), (10.2, 28.0), (28.1, 40.0), (45.0, 140.0)]
    clips = padded(windows(speech), 140.0)
    assert all(b - a <= 30.0 for a, b in clips)
    assert all(a[1] <= b[0] + 1e-9 for a, b in pairwise(clips))
    assert clips[0][0] >= 0.0 and clips[-1][1] <= 140.0


def test_speech_without_a_pause_is_cut_between_words() -> None:
    rate, length_s = 16_000, 70
    samples = (np.random.default_rng(3).normal(0, 3000, rate * length_s)).astype(np.int16)
    hushes = [12.0, 21.5, 27.0, 33.0, 48.2, 60.0]  # where one word ends and the next has not begun
    for at_s in hushes:
        samples[round((at_s - 0.1) * rate) : round((at_s + 0.1) * rate)] //= 20
    found = windows(cut_long([(0.5, 68.0)], samples))
    assert (found[0][0], found[-1][1]) == (0.5, 68.0)
    assert all(b - a <= WINDOW_S for a, b in found)
    for (_, end_s), (start_s, _) in pairwise(found):
        assert end_s == start_s and min(abs(end_s - at_s) for at_s in hushes) < 0.05


def test_speech_that_is_a_little_too_long_leaves_no_crumb() -> None:
    samples = np.full(16_000 * 40, 1000, np.int16)
    samples[16_000 * 29 :] = 0
    (a, b), (c, d) = cut_long([(0.0, 29.5)], samples)
    assert a == 0.0 and b == c and d == 29.5 and d - c >= 2.0
    assert cut_long([(1.0, 30.0)], samples) == [(1.0, 30.0)]


def test_what_is_heard_again_fills_gaps_only() -> None:
    def at(start_s: float, end_s: float, text: str) -> SpokenSegment:
        return SpokenSegment(start_s=start_s, end_s=end_s, text=text)

    both = merged([at(0, 2, "a"), at(6, 8, "c")], [at(3, 5, "b"), at(6.2, 7, "again")])
    assert [segment.text for segment in both] == ["a", "b", "c"]


def test_pieces_become_words_between_spaces() -> None:
    def piece(word: str, start: float) -> SimpleNamespace:
        return SimpleNamespace(word=word, start=start, end=start + 0.5, probability=0.9)

    well = [piece(" well", 0.0), piece("-known", 0.5), piece(" thing.", 1.0)]
    assert [word.text for word in words_of(well, "en", 1.2)] == ["well-known", "thing."]
    assert words_of(well, "en", 1.2)[-1].end_s == 1.2
    assert [word.text for word in words_of([piece("客", 0.0), piece("観", 0.1)], "ja", 5.0)] == ["客", "観"]


def test_a_flipped_byte_is_refused(cache: Path, tmp_path: Path) -> None:
    shutil.copytree(weights.whisper_folder("base", cache), tmp_path / f"whisper-base-{weights.JOINED_BASE[:12]}")
    model = weights.whisper_folder("base", tmp_path) / "model.bin"
    with open(model, "r+b") as file:
        file.seek(70_000_000)
        byte = file.read(1)[0]
        file.seek(70_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(Refused) as refused:
        weights.whisper_folder("base", tmp_path)
    assert str(model) in str(refused.value) and weights.JOINED_BASE in str(refused.value)


def test_sums_are_remembered_and_a_broken_memory_is_no_harm(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.verified("silero-vad", cache)
    monkeypatch.setattr(weights, "_sum", lambda path: pytest.fail(f"hashed {path} again"))
    weights.verified("silero-vad", cache)
    monkeypatch.undo()
    (cache / "sums.json").write_text("{broken")
    weights.verified("silero-vad", cache)


def _join(cache: Path) -> None:
    weights.whisper_folder("base", cache)


def test_two_processes_join_at_once(tmp_path: Path) -> None:
    (tmp_path / f".whisper-base-{weights.JOINED_BASE[:12]}.new").mkdir()  # what a killed process left
    spawn = multiprocessing.get_context("spawn")
    children = [spawn.Process(target=_join, args=(tmp_path,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [f"whisper-base-{weights.JOINED_BASE[:12]}"]


def test_an_identity_needs_no_model(cache: Path, tmp_path: Path) -> None:
    base, fast = weights.identity_of("base"), weights.identity_of("fast")
    assert base[0] == "whisper-base" and fast[0] == "whisper-tiny.en" and base[1] != fast[1]
    own = weights.identity_of(str(weights.whisper_folder("base", cache)), cache)
    assert own[1] == base[1]
    with pytest.raises(UsageError, match=r"model\.bin"):
        weights.whisper_folder(str(tmp_path), tmp_path)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "PINS", {"odd": {"no_such_package_here/a.bin": "0" * 64}})
    with pytest.raises(OmniError, match="no_such_package_here"):
        weights.verified("odd", tmp_path)
