"""Seams, second tries and fallbacks of a transcript."""

import pytest

from omni_jobs.result import Segment, Transcript
from tests.workers.results.make import TIMEOUT, make_source, make_span, make_words, spoken
from workers.results.assemble import assemble
from workers.results.outcome import UnitOutcome


def transcript(*units: UnitOutcome) -> Transcript:
    made = assemble(make_source(*units)).transcript
    assert made is not None
    return made


def texts(made: Transcript) -> list[tuple[str, float, float]]:
    return [(segment.text, segment.start_s, segment.end_s) for segment in made.segments]


def test_aligned_words_replace_those_of_the_segment() -> None:
    span = make_span(0, 10, spoken(("Good", 0.0, 2.0), ("morning.", 2.0, 5.0)))
    made = transcript(span, make_words("u1", [("Good", 0.51, 0.8), ("morning.", 0.85, 1.4)]))
    (segment,) = made.segments
    assert (segment.text, segment.start_s, segment.end_s, segment.language) == ("Good morning.", 0.51, 1.4, "en")
    assert [(word.text, word.start_s, word.method) for word in segment.words] == [
        ("Good", 0.51, "alignment"),
        ("morning.", 0.85, "alignment"),
    ]
    assert made.notes == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "they were not asked for"),
        ([make_words("u1", error=TIMEOUT)], "no answer in 600 s"),
        ([make_words("u1", [("Hi", 1.0, 2.0)], method="whisper", reason="no aligner for xx")], "no aligner for xx"),
        ([make_words("u1")], "alignment gave 0 segments for 1"),
    ],
)
def test_a_note_says_why_words_are_not_aligned(words: list[UnitOutcome], reason: str) -> None:
    made = transcript(make_span(0, 10, spoken(("Hi", 1.0, 2.0))), *words)
    assert [(word.text, word.method) for word in made.segments[0].words] == [("Hi", "whisper")]
    assert made.notes == [f"words have no aligned times in 1 of 1 spans: {reason}"]


def test_spans_join_in_time_order_and_stay_within_their_bounds() -> None:
    late = make_span(10, 20, spoken(("b", 9.7, 10.4), ("c", 10.4, 21.0)), unit_id="u2")
    early = make_span(0, 10, spoken(("a", 1.0, 10.6)))
    assert texts(transcript(late, early)) == [("a", 1.0, 10.0), ("b c", 10.0, 20.0)]


def test_overlapping_spans_double_nothing() -> None:
    first = make_span(0, 10, spoken(("one", 8.0, 8.5), ("two", 9.0, 9.5)))
    second = make_span(8.8, 20, spoken(("two", 9.05, 9.5), ("three", 9.8, 10.5)), unit_id="u2")
    assert texts(transcript(first, second)) == [("one two", 8.0, 9.5), ("three", 9.8, 10.5)]


def test_a_redo_is_merged_by_time_without_doubling() -> None:
    first = make_span(0, 30, spoken(("Well,", 1.0, 2.0), ("then.", 20.0, 21.0)))
    again = make_span(
        1, 20.5, spoken(("well", 1.1, 1.9), ("you", 8.0, 8.5), ("see,", 8.5, 9.0), ("then", 20.0, 20.4)),
        unit_id="u2", redo_of="u1",
    )  # fmt: skip
    made = transcript(again, first)
    assert texts(made) == [("Well,", 1.0, 2.0), ("you see,", 8.0, 9.0), ("then.", 20.0, 21.0)]


def test_words_without_spaces_between_them_stay_so_when_cut() -> None:
    first = make_span(0, 30, spoken(("会議", 1.0, 2.0), ("です", 20.0, 21.0), text="会議です"), language="ja")
    again = make_span(2, 20, spoken(("三", 8.0, 8.5), ("時", 8.5, 9.0), text="三時"), unit_id="u2", redo_of="u1")
    assert [segment.text for segment in transcript(first, again).segments] == ["会議", "三時", "です"]


def test_segments_without_words_are_kept_and_ordered() -> None:
    bare = {"start_s": 3.0, "end_s": 6.0, "text": "no times here", "words": []}
    again = make_span(2, 8, bare | {"start_s": 3.5, "end_s": 5.5}, unit_id="u2", redo_of="u1")
    made = transcript(make_span(0, 10, bare, {"start_s": 5.5, "end_s": 9.0, "text": "next"}), again)
    assert texts(made) == [("no times here", 3.0, 5.5), ("next", 5.5, 9.0)]


def test_the_language_is_that_of_most_seconds() -> None:
    short = make_span(0, 10, spoken(("a", 0, 1)), spoken(("b", 1, 2)), language="en")
    long = make_span(10, 20, spoken(("c", 10, 15)), unit_id="u2", language="de")
    silent = make_span(20, 60, unit_id="u3")
    assert transcript(short, long, silent).language == "de"
    assert transcript(silent) == Transcript(language="")


def test_characters_that_a_store_refuses_are_gone() -> None:
    made = transcript(make_span(0, 10, spoken(("a\0b", 0, 1), ("c\ud800", 1, 2), text="a\0b c\ud800")))
    assert texts(made) == [("ab c", 0, 2)]


def test_a_small_talk_is_assembled_as_written_down_by_hand() -> None:
    units = (
        make_span(0, 30, spoken(("Welcome", 0, 1), ("back.", 1, 1.3)), spoken(("Let's", 2, 2.2), ("go.", 2.2, 2.7))),
        make_words("u1", [("Welcome", 0.42, 0.88), ("back.", 0.9, 1.25)], [("Let's", 2.03, 2.2), ("go.", 2.22, 2.71)]),
        make_span(30, 60, unit_id="u2"),
    )  # fmt: skip
    assert transcript(*units).model_dump(exclude_defaults=True) == {
        "language": "en",
        "segments": [
            {"start_s": 0.42, "end_s": 1.25, "text": "Welcome back.", "language": "en", "words": [
                {"text": "Welcome", "start_s": 0.42, "end_s": 0.88, "confidence": 0.9, "method": "alignment"},
                {"text": "back.", "start_s": 0.9, "end_s": 1.25, "confidence": 0.9, "method": "alignment"}]},
            {"start_s": 2.03, "end_s": 2.71, "text": "Let's go.", "language": "en", "words": [
                {"text": "Let's", "start_s": 2.03, "end_s": 2.2, "confidence": 0.9, "method": "alignment"},
                {"text": "go.", "start_s": 2.22, "end_s": 2.71, "confidence": 0.9, "method": "alignment"}]},
        ],
    }  # fmt: skip


def test_the_order_of_units_does_not_matter() -> None:
    units = [
        make_span(n * 10, n * 10 + 10, spoken((f"w{n}", n * 10 + 1, n * 10 + 2)), unit_id=f"u{n}") for n in range(5)
    ]
    words = [make_words(f"u{n}", [(f"w{n}", n * 10 + 1.1, n * 10 + 1.9)]) for n in range(5)]
    assert transcript(*units, *words) == transcript(*reversed(units + words))
    assert isinstance(transcript(*units).segments[0], Segment)
