"""The certificate accounts for everything, exactly once, and says no more than it knows."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_jobs.result import Coverage, Covered, SourceResult
from tests.workers.results.make import (
    TIMEOUT,
    block,
    make_clip,
    make_page,
    make_source,
    make_span,
    spoken,
)
from workers.results.assemble import assemble
from workers.results.coverage import gaps_of
from workers.results.outcome import SourceOutcome, UnitOutcome
from workers.results.stretches import ms

NO_WORDS = "speech was heard but no words were found"


def told(result: SourceResult, medium: str = "speech") -> list[tuple[str, float, float, str]]:
    return [
        (entry.state, entry.start_s, entry.end_s, entry.reason)
        for entry in result.coverage.entries
        if entry.medium == medium and entry.start_s is not None and entry.end_s is not None
    ]


def test_words_quiet_and_missed_speech_are_told_apart() -> None:
    span = make_span(0, 60, spoken(("one", 5.2, 6.0), ("two", 6.5, 9.8)))
    result = assemble(make_source(span, speech=((5.0, 10.0), (30.0, 34.0))))
    assert told(result) == [
        ("empty", 0, 5, "no speech heard"),
        ("done", 5, 10, ""),
        ("empty", 10, 30, "no speech heard"),
        ("empty", 30, 34, NO_WORDS),
        ("empty", 34, 60, "no speech heard"),
    ]
    total = result.coverage.totals["speech"]
    assert (total.total, total.done, total.empty, total.failed) == (60, 5, 55, 0)
    assert gaps_of(result.coverage) == 0


def test_a_hole_in_speech_counts_from_one_and_a_half_seconds_on() -> None:
    def holes(until_s: float) -> list[str]:
        span = make_span(0, 10, spoken(("a", 0.0, 4.0), ("b", until_s, 10.0)))
        return [reason for *_, reason in told(assemble(make_source(span, duration_s=10.0, speech=((0.0, 10.0),))))]

    assert holes(5.499) == [""]
    assert holes(5.5) == ["", NO_WORDS, ""]


def test_a_short_pause_between_words_is_no_entry_of_its_own() -> None:
    span = make_span(0, 10, spoken(("a", 0.0, 4.0), ("b", 5.4, 10.0)))
    result = assemble(make_source(span, duration_s=10.0, speech=((0.0, 4.0), (5.4, 10.0))))
    assert told(result) == [("done", 0, 10, "")]


def test_a_dead_span_and_an_undecodable_stretch_fail_by_name() -> None:
    alive = make_span(0, 20, spoken(("a", 1.0, 19.0)))
    dead = make_span(20, 40, unit_id="u2", error=TIMEOUT)
    source = make_source(alive, dead, duration_s=50.0, gaps=(("speech", 40.0, 50.0, "damaged"),), speech=((0.0, 40.0),))
    result = assemble(source)
    assert told(result) == [
        ("done", 0, 20, ""),
        ("failed", 20, 40, "no answer in 600 s"),
        ("failed", 40, 50, "could not be decoded: damaged"),
    ]
    assert gaps_of(result.coverage) == 2


def test_speech_that_no_unit_was_made_of_is_a_gap() -> None:
    span = make_span(0, 10, spoken(("a", 0.0, 10.0)))
    result = assemble(make_source(span, duration_s=20.0, speech=((0.0, 10.0), (12.0, 15.0))))
    assert ("failed", 12, 15, "no unit was made of it") in told(result)


def test_a_redo_fills_the_hole_it_was_made_for() -> None:
    first = make_span(0, 30, spoken(("a", 0.0, 10.0), ("z", 20.0, 30.0)))
    again = make_span(10, 20, spoken(("m", 10.1, 19.9)), unit_id="u2", redo_of="u1")
    source = make_source(first, again, duration_s=30.0, speech=((0.0, 30.0),))
    assert told(assemble(source)) == [("done", 0, 30, "")]


def test_a_dead_redo_fails_only_what_has_no_words() -> None:
    first = make_span(0, 30, spoken(("a", 0.0, 10.0), ("z", 20.0, 30.0)))
    again = make_span(9, 21, unit_id="u2", redo_of="u1", error=TIMEOUT)
    source = make_source(first, again, duration_s=30.0, speech=((0.0, 30.0),))
    assert [(state, low, high) for state, low, high, _ in told(assemble(source))] == [
        ("done", 0, 10),
        ("failed", 10, 20),
        ("done", 20, 30),
    ]


def test_the_best_rejected_answer_is_shown_and_stays_a_gap() -> None:
    kept = {"language": "en", "segments": [spoken(("a", 1.0, 9.0))]}
    span = make_span(0, 10, error={"type": "internal", "message": "it repeats itself"})
    source = make_source(_with(span, kept=kept), duration_s=10.0, speech=((0.0, 10.0),))
    result = assemble(source)
    assert result.transcript is not None
    assert [segment.text for segment in result.transcript.segments] == ["a"]
    assert result.transcript.notes[-1] == "00:00:00 to 00:00:10 is the best of the rejected answers: it repeats itself"
    assert told(result) == [("failed", 0, 10, "it repeats itself; the best rejected answer is shown")]


def test_only_what_was_asked_for_is_accounted_for() -> None:
    span = make_span(10, 20, spoken(("a", 10.0, 20.0)))
    result = assemble(make_source(span, range_s=(10.0, 25.0), speech=((0.0, 60.0),)))
    assert told(result) == [("done", 10, 20, ""), ("failed", 20, 25, "no unit was made of it")]


def test_video_is_done_per_run_of_shots() -> None:
    clips = [
        make_clip(0, 10, {"start_s": 0, "end_s": 4, "text": "a"}, {"start_s": 4.0, "end_s": 9.96, "text": "b"}),
        make_clip(10, 20, unit_id="c2", error=TIMEOUT),
        make_clip(
            20, 30, {"start_s": 20, "end_s": 25, "text": "c"}, {"start_s": 25, "end_s": 30, "text": ""}, unit_id="c3"
        ),
    ]
    source = make_source(*clips, tasks=("caption",), duration_s=40.5, gaps=(("video", 30.0, 40.0, ""),))
    result = assemble(source)
    assert told(result, "video") == [
        ("done", 0, 10, ""),
        ("failed", 10, 20, "no answer in 600 s"),
        ("done", 20, 25, ""),
        ("empty", 25, 30, "nothing to say about it"),
        ("failed", 30, 40, "could not be decoded"),
        ("empty", 40, 40.5, "no pictures here"),
    ]


def test_sound_a_little_longer_than_the_picture_is_no_gap() -> None:
    clip = make_clip(0, 10, {"start_s": 0, "end_s": 10, "text": "a"})
    assert told(assemble(make_source(clip, tasks=("caption",), duration_s=10.4)), "video") == [("done", 0, 10.4, "")]


def test_where_there_is_only_sound_no_picture_is_missing() -> None:
    clip = make_clip(3, 7, {"start_s": 3, "end_s": 7, "text": "a"})
    result = assemble(make_source(clip, tasks=("caption",), duration_s=11.0))
    assert told(result, "video") == [
        ("empty", 0, 3, "no pictures here"),
        ("done", 3, 7, ""),
        ("empty", 7, 11, "no pictures here"),
    ]
    assert gaps_of(result.coverage) == 0


def test_pictures_that_the_file_promises_and_does_not_give_are_missing() -> None:
    clip = make_clip(0, 4, {"start_s": 0, "end_s": 4, "text": "a"})
    source = make_source(clip, tasks=("caption",), duration_s=9.0, gaps=(("video", 4.0, 8.0, "cut off"),))
    assert told(assemble(source), "video") == [
        ("done", 0, 4, ""),
        ("failed", 4, 8, "could not be decoded: cut off"),
        ("empty", 8, 9, "no pictures here"),
    ]


def test_pictures_between_two_clips_are_missing() -> None:
    clips = [make_clip(a, a + 4, {"start_s": a, "end_s": a + 4, "text": "a"}, unit_id=f"c{a}") for a in (0, 8)]
    result = assemble(make_source(*clips, tasks=("caption",), duration_s=12.0))
    assert told(result, "video")[1] == ("failed", 4, 8, "no unit was made of it")


def test_pictures_of_which_no_clip_was_made_are_missing() -> None:
    result = assemble(make_source(tasks=("caption",), duration_s=12.0))
    assert told(result, "video") == [("failed", 0, 12, "no unit was made of it")]


def test_pages_are_done_blank_or_failed() -> None:
    pages = [make_page(2, source="none"), make_page(1, block("Hello")), make_page(4, error=TIMEOUT)]
    result = assemble(make_source(*pages, tasks=("document",), duration_s=None, pages=9))
    assert [(entry.page, entry.state, entry.reason) for entry in result.coverage.entries] == [
        (1, "done", ""),
        (2, "empty", "blank page"),
        (4, "failed", "no answer in 600 s"),
    ]
    total = result.coverage.totals["page"]
    assert (total.total, total.done, total.empty, total.failed) == (3, 1, 1, 1)


def test_only_a_page_without_ink_is_blank() -> None:
    unread = "Print was seen and none of it could be read: 3 lines."
    pages = [
        make_page(1, source="none"),
        make_page(2, source="ocr"),
        make_page(3, source="ocr", unread=unread),
        make_page(4, source="none", unread="The page has no text layer. No picture was made of it."),
        make_page(5, block("Hello"), source="ocr", unread="1 line of print could not be read."),
    ]
    result = assemble(make_source(*pages, tasks=("document",), duration_s=None, pages=5))
    assert [(entry.page, entry.state, entry.reason) for entry in result.coverage.entries] == [
        (1, "empty", "blank page"),
        (2, "empty", "a picture in which no print was found"),
        (3, "failed", unread),
        (4, "failed", "The page has no text layer. No picture was made of it."),
        (5, "done", "1 line of print could not be read."),
    ]


@pytest.mark.parametrize("known", [{"duration_s": 60.0}, {"duration_s": None, "pages": 3}])
def test_a_source_that_cannot_be_read_fails_as_a_whole(known: dict[str, Any]) -> None:
    error = {"type": "encrypted", "message": "it asks for a password", "retryable": False}
    result = assemble(make_source(tasks=("transcribe", "caption", "document"), error=error, **known))
    assert {(entry.state, entry.reason) for entry in result.coverage.entries} == {("failed", "it asks for a password")}
    assert len(result.coverage.entries) == (2 if known["duration_s"] else 3)
    assert result.transcript is None and result.error is not None and result.error.type == "encrypted"


def test_a_source_of_unknown_length_that_cannot_be_read_has_no_entries() -> None:
    result = assemble(make_source(duration_s=None, error={"type": "unreadable", "message": "no header"}))
    assert result.coverage == Coverage()


def _with(unit: UnitOutcome, **changes: Any) -> UnitOutcome:
    return replace(unit, **changes)


@st.composite
def sources(draw: st.DrawFn) -> SourceOutcome:
    """Spans and clips that tile a source, some dead, some redone, with gaps and speech anywhere, even outside."""
    length = draw(st.integers(1, 400)) * draw(st.sampled_from([1, 7, 997]))
    instant = st.integers(-length // 10, length + length // 10).map(lambda at: at / 1000)
    stretch = st.tuples(instant, instant).map(lambda pair: (min(pair), max(pair)))
    edges = sorted({0.0, length / 1000, *draw(st.lists(st.integers(0, length).map(lambda at: at / 1000), max_size=4))})
    units: list[UnitOutcome] = []
    for number, (start_s, end_s) in enumerate(pairwise(edges)):
        if draw(st.integers(0, 9)) == 0:
            continue  # a unit that nobody made
        error = TIMEOUT if draw(st.integers(0, 4)) == 0 else None
        said = [spoken(("w", *one)) for one in sorted(draw(st.lists(stretch, max_size=3)))]
        units.append(make_span(start_s, end_s, *said, unit_id=f"u{number}", error=error))
        if draw(st.booleans()):
            low, high = sorted((draw(st.floats(start_s, end_s)), draw(st.floats(start_s, end_s))))
            again = [spoken(("r", *one)) for one in draw(st.lists(stretch, max_size=2))]
            gone = TIMEOUT if draw(st.booleans()) else None
            units.append(make_span(low, high, *again, unit_id=f"r{number}", redo_of=f"u{number}", error=gone))
        shots = [{"start_s": one[0], "end_s": one[1], "text": draw(st.sampled_from(["", "x"]))}
                 for one in draw(st.lists(stretch, max_size=3))]  # fmt: skip
        units.append(make_clip(start_s, end_s, *shots, unit_id=f"c{number}", error=error))
    gaps = [
        (medium, *draw(stretch), "damaged")
        for medium in draw(st.lists(st.sampled_from(["speech", "video"]), max_size=3))
    ]
    low = draw(st.integers(0, length)) / 1000
    return make_source(
        *draw(st.permutations(units)),
        tasks=("transcribe", "caption"),
        duration_s=length / 1000,
        gaps=tuple(gaps),
        speech=tuple(draw(st.lists(stretch, max_size=4))),
        range_s=draw(st.sampled_from([(0.0, None), (low, None), (0.0, low or 0.001), (low, length)])),
    )


@given(sources())
def test_entries_are_a_partition_of_what_was_asked(source: SourceOutcome) -> None:
    result = assemble(source)
    assert source.duration_s is not None
    low, high = source.range_s
    end = min(ms(source.duration_s), ms(high) if high is not None else ms(source.duration_s))
    asked = (min(ms(low), end), end)
    for medium in ("speech", "video"):
        entries = [entry for entry in result.coverage.entries if entry.medium == medium]
        if asked[0] == asked[1]:
            assert entries == []
            continue
        check_partition(entries, asked)
        total = result.coverage.totals[medium]
        assert ms(total.total) == asked[1] - asked[0] == ms(total.done) + ms(total.empty) + ms(total.failed)


def check_partition(entries: list[Covered], asked: tuple[int, int]) -> None:
    bounds = [(ms(entry.start_s or 0), ms(entry.end_s or 0)) for entry in entries]
    assert bounds[0][0] == asked[0] and bounds[-1][1] == asked[1]
    assert all(low < high for low, high in bounds)
    for (before, after), (left, right) in zip(pairwise(bounds), pairwise(entries), strict=True):
        assert before[1] == after[0]
        assert (left.state, left.reason) != (right.state, right.reason)
    assert all(entry.reason for entry in entries if entry.state != "done")


@given(sources())
def test_transcripts_never_run_back(source: SourceOutcome) -> None:
    transcript = assemble(source).transcript
    assert transcript is not None
    words = [word for segment in transcript.segments for word in segment.words]
    assert all(word.start_s <= word.end_s for word in words)
    assert all(before.end_s <= after.start_s for before, after in pairwise(words))
    assert all(before.end_s <= after.start_s for before, after in pairwise(transcript.segments))
    assert all(segment.text.split() == [word.text for word in segment.words] for segment in transcript.segments)
