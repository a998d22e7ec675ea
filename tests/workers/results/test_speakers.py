"""Turns laid over words."""

from typing import Any

import pytest

from omni_jobs.result import SourceResult, Turn
from tests.workers.results.make import TIMEOUT, make_source, make_span, make_unit, make_words, spoken
from workers.results.artifacts import render
from workers.results.assemble import assemble
from workers.results.coverage import gaps_of
from workers.results.outcome import UnitOutcome
from workers.results.rows import rows_of
from workers.results.speakers import speakers_of


def turns(*found: tuple[float, float, str]) -> list[Turn]:
    return [Turn(start_s=start_s, end_s=end_s, speaker=speaker) for start_s, end_s, speaker in found]


def make_speakers(*found: tuple[float, float, str], error: dict[str, Any] | None = None) -> UnitOutcome:
    answer = {"turns": [turn.model_dump() for turn in turns(*found)]}
    return make_unit("speakers", "sp", input={"start_s": 0, "end_s": 60}, answer=None if error else answer, error=error)


TWO = spoken(
    ("Are", 1.0, 1.3), ("you", 1.3, 1.5), ("there?", 1.5, 2.0), ("Yes,", 2.4, 2.7), ("I", 2.7, 2.8), ("am.", 2.8, 3.2)
)


def made(*units: UnitOutcome) -> SourceResult:
    return assemble(make_source(*units, speech=((0.5, 4.0),)))


@pytest.mark.parametrize(
    ("word", "speaker"),
    [
        ((1.2, 1.8), "A"),
        ((1.8, 2.1), "A"),  # two thirds in A
        ((1.9, 2.4), "B"),
        ((4.3, 4.6), "B"),  # 0.3 s after B, 0.4 s before C
        ((4.75, 4.9), "C"),
        ((6.1, 6.3), None),
        ((6.5, 6.5), "D"),  # no length, at 0.5 s
        ((0.5, 0.5), "A"),
        ((0.2, 0.4), None),
    ],
)
def test_a_word_is_of_whom_it_overlaps_most_or_is_nearest(word: tuple[float, float], speaker: str | None) -> None:
    given = turns((1.0, 2.0, "A"), (2.0, 4.0, "B"), (5.0, 5.5, "C"), (7.0, 9.0, "D"))
    assert speakers_of([word], given) == [speaker]


def test_several_turns_of_one_speaker_count_together() -> None:
    assert speakers_of([(1.0, 2.0)], turns((0.9, 1.3, "A"), (1.3, 1.7, "B"), (1.7, 2.0, "A"))) == ["A"]


def test_in_an_overlap_who_spoke_last_goes_on() -> None:
    given = turns((0.0, 5.0, "A"), (2.0, 8.0, "B"))
    words = [(1.0, 1.5), (3.0, 3.5), (4.9, 5.6), (6.0, 6.5)]
    assert speakers_of(words, given) == ["A", "A", "B", "B"]


def test_without_turns_nobody_is_named() -> None:
    assert speakers_of([(0.0, 1.0), (2.0, 3.0)], []) == [None, None]


def test_a_segment_is_cut_where_the_speaker_changes() -> None:
    source = made(make_span(0, 60, TWO), make_speakers((0.9, 2.1, "S1"), (2.3, 3.3, "S2")))
    assert source.transcript is not None
    told = [(one.speaker, one.text, one.start_s, one.end_s) for one in source.transcript.segments]
    assert told == [("S1", "Are you there?", 1.0, 2.0), ("S2", "Yes, I am.", 2.4, 3.2)]
    assert [word.speaker for one in source.transcript.segments for word in one.words] == ["S1"] * 3 + ["S2"] * 3
    assert [turn.speaker for turn in source.transcript.turns] == ["S1", "S2"]
    assert [row["speaker"] for row in rows_of(source)["segments"]] == ["S1", "S2"]


def test_aligned_words_are_what_speakers_are_laid_over() -> None:
    aligned = [(word["text"], word["start_s"] + 2, word["end_s"] + 2) for word in TWO["words"]]
    source = made(make_span(0, 60, TWO), make_words("u1", aligned), make_speakers((0.9, 2.1, "S1"), (3.0, 6.0, "S2")))
    assert source.transcript is not None
    assert [one.speaker for one in source.transcript.segments] == ["S2"]


def test_a_word_of_nobody_stays_in_its_segment() -> None:
    far = spoken(("Well", 1.0, 1.3), ("er", 3.0, 3.1), ("no.", 5.0, 5.4))
    source = made(make_span(0, 60, far), make_speakers((0.9, 1.4, "S1"), (4.9, 5.5, "S1")))
    assert source.transcript is not None
    (segment,) = source.transcript.segments
    assert (segment.speaker, [word.speaker for word in segment.words]) == ("S1", ["S1", None, "S1"])


def test_a_segment_without_words_has_the_speaker_of_most_of_it() -> None:
    bare = {"start_s": 1.0, "end_s": 4.0, "text": "No words here.", "words": []}
    source = made(make_span(0, 60, bare), make_speakers((0.5, 2.0, "S1"), (2.0, 4.5, "S2")))
    assert source.transcript is not None and source.transcript.segments[0].speaker == "S2"


def test_speakers_show_in_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.workers.results.make import make_result

    source = made(make_span(0, 60, TWO), make_speakers((0.9, 2.1, "S1"), (2.3, 3.3, "S2")))
    files = {one.format: one.data.decode() for one in render(make_result(source))}
    assert "<v S2>Yes, I am." in files["vtt"]
    assert "**S1:** Are you there?" in files["md"] and "**S2:** Yes, I am." in files["md"]


def test_if_the_speakers_die_the_text_stays_and_the_result_says_so() -> None:
    source = made(make_span(0, 60, TWO), make_speakers(error=TIMEOUT))
    assert source.transcript is not None
    assert [(one.text, one.speaker) for one in source.transcript.segments] == [("Are you there? Yes, I am.", None)]
    reason = "who speaks is not known: no answer in 600 s"
    assert reason in source.transcript.notes
    assert {(one.state, one.reason) for one in source.coverage.entries} == {
        ("done", reason),
        ("empty", "no speech heard"),
    }
    assert gaps_of(source.coverage) == 0


def test_without_the_unit_nothing_is_said_about_speakers() -> None:
    source = made(make_span(0, 60, TWO))
    assert source.transcript is not None and source.transcript.turns == []
    assert not any("who speaks" in note for note in source.transcript.notes)
