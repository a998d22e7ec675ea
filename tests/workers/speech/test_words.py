import json
from itertools import chain, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.answers import SpokenSegment, SpokenWord, WordsAnswer
from workers.inputs import CanonicalAudio
from workers.speech.words import Aligner, kept

START_S = 100.0
TEXT = "Printing, in the only sense with which we are at present concerned,"


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    pytest.importorskip("hama")
    return Aligner()


@pytest.fixture(scope="module")
def reading(lj001: NDArray[np.int16]) -> CanonicalAudio:
    """Five seconds, which say `TEXT` and more."""
    return CanonicalAudio(lj001[: 5 * 16_000], START_S)


def segment(text: str, start_s: float = START_S, end_s: float = START_S + 4.6, **more: object) -> SpokenSegment:
    return SpokenSegment(start_s=start_s, end_s=end_s, text=text, **more)


def flat(answer: WordsAnswer) -> list[SpokenWord]:
    return list(chain.from_iterable(answer.segments))


def check(answer: WordsAnswer, segments: list[SpokenSegment], audio: CanonicalAudio) -> None:
    """Every word of the text has a time in the span, and times never go back."""
    assert [[word.text for word in words] for words in answer.segments] == [s.text.split() for s in segments]
    words = flat(answer)
    assert all(audio.start_s <= w.start_s <= w.end_s <= audio.start_s + audio.duration_s + 1e-6 for w in words)
    assert all(a.start_s <= b.start_s and a.end_s <= b.start_s + 1e-6 for a, b in pairwise(words))


def test_words_lie_where_they_are_said(aligner: Aligner, reading: CanonicalAudio) -> None:
    segments = [segment(TEXT)]
    answer = aligner.align(reading, segments, "en")
    check(answer, segments, reading)
    assert answer.method == "alignment" and (answer.confidence or 0) > 0.9 and not answer.reason
    printing, concerned = answer.segments[0][0], answer.segments[0][-1]
    assert printing.end_s == pytest.approx(START_S + 0.68, abs=0.15)
    assert concerned.start_s > START_S + 3


def test_the_same_input_gives_the_same_words(aligner: Aligner, reading: CanonicalAudio) -> None:
    first = aligner.align(reading, [segment(TEXT)], "en")
    aligner.align(reading, [segment("something else entirely")], "en")
    assert aligner.align(reading, [segment(TEXT)], "en") == first


def test_tokens_without_a_sound_get_a_time_too(aligner: Aligner, reading: CanonicalAudio) -> None:
    segments = [segment("— Printing, in the only ... sense with which"), segment("we are at present 🙂 concerned, …")]
    answer = aligner.align(reading, segments, "en")
    check(answer, segments, reading)
    dash = answer.segments[0][0]
    assert dash.confidence is None and dash.method == "estimated" and dash.start_s == START_S


def test_text_that_was_not_said_falls_back(aligner: Aligner, reading: CanonicalAudio) -> None:
    wrong = segment("Yellow bicycles rarely jump through frozen mathematics because umbrellas vote for cheese")
    answer = aligner.align(reading, [wrong], "en")
    check(answer, [wrong], reading)
    assert answer.method == "estimated" and "does not fit" in answer.reason
    assert (answer.confidence or 0) < 0.5 and {word.method for word in flat(answer)} == {"estimated"}


def test_a_loop_that_nobody_can_say_is_estimated(aligner: Aligner, reading: CanonicalAudio) -> None:
    segments = [segment("again and again " * 200)]
    answer = aligner.align(reading, segments, "en")
    check(answer, segments, reading)
    assert answer.method == "estimated" and "more sounds" in answer.reason


def test_a_loop_in_one_segment_leaves_the_others_alone(aligner: Aligner, reading: CanonicalAudio) -> None:
    loop = segment("again and again " * 200, START_S + 4.6, START_S + 4.9)
    answer = aligner.align(reading, [segment(TEXT), loop], "en")
    check(answer, [segment(TEXT), loop], reading)
    assert answer.method == "alignment" and {word.method for word in answer.segments[0]} == {"alignment"}


def test_another_language_keeps_the_times_of_whisper(aligner: Aligner, reading: CanonicalAudio) -> None:
    word = SpokenWord(text="hola", start_s=START_S + 0.2, end_s=START_S + 0.7, confidence=0.9, method="whisper")
    answer = aligner.align(reading, [segment("hola", words=[word])], "es")
    assert answer.method == "whisper" and "`es`" in answer.reason and answer.segments == [[word]]
    bare = aligner.align(reading, [segment("hola a todos")], "es")
    check(bare, [segment("hola a todos")], reading)
    assert bare.method == "estimated"


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.05, 0.5])
def test_tiny_recordings_do_no_harm(aligner: Aligner, seconds: float) -> None:
    audio = CanonicalAudio(np.zeros(int(seconds * 16_000), np.int16), 7.0)
    for segments in ([], [segment("hello there", 7.0, 7.0 + seconds)], [segment("", 7.0, 7.0)]):
        check(aligner.align(audio, segments, "en"), segments, audio)


def test_times_are_shared_by_length_inside_the_span() -> None:
    audio = CanonicalAudio(np.zeros(16_000, np.int16), 10.0)
    answer = kept(audio, [segment("a longer word", 9.0, 12.0)], "because")
    assert flat(answer)[0].start_s == 10.0 and flat(answer)[-1].end_s == 11.0
    assert json.loads(answer.model_dump_json())["reason"] == "because"
