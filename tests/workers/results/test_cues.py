"""Subtitles that can be read while they are shown."""

import re
from itertools import pairwise

import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_jobs.result import Segment, Transcript, Word
from workers.results.cues import LINE_LENGTH, LINGER_MS, LONGEST_MS, READING_RATE, cues_of
from workers.results.stretches import ms
from workers.results.subtitles import srt, vtt


def make_transcript(*segments: tuple[str, float, float], word_times: bool = True) -> Transcript:
    """Words of the text one after the other, each as long as its letters."""
    made: list[Segment] = []
    for text, start_s, end_s in segments:
        letters, at = sum(map(len, text.split())), 0
        words: list[Word] = []
        for word in text.split():
            low, high = (start_s + (end_s - start_s) * edge / letters for edge in (at, at + len(word)))
            words.append(Word(text=word, start_s=low, end_s=high, method="alignment"))
            at += len(word)
        made.append(Segment(start_s=start_s, end_s=end_s, text=text, words=words if word_times else []))
    return Transcript(language="en", segments=made)


def lines(transcript: Transcript) -> list[tuple[str, ...]]:
    return [cue.lines for cue in cues_of(transcript)]


def test_cues_end_with_sentences_and_clauses() -> None:
    text = (
        "The first sentence is short enough. The second one is quite a lot longer, because it has a clause at its end, "
        "and another that goes on until the line is full. The third ends it."
    )
    cues = lines(make_transcript((text, 0.0, 14.0)))
    assert len(cues) > 2 and all(cue[-1].endswith((".", ",")) for cue in cues)


def test_a_short_answer_joins_its_neighbour() -> None:
    assert lines(make_transcript(("Yes.", 0.0, 0.2), ("I think so too.", 0.2, 1.4))) == [("Yes. I think so too.",)]


def test_a_long_pause_ends_a_cue_and_nothing_is_shown_over_it() -> None:
    before, after = cues_of(make_transcript(("wait and", 0.0, 0.5), ("see", 5.0, 5.4)))
    assert (before.lines, before.start_ms, before.end_ms) == (("wait and",), 0, 800)
    assert (after.start_ms, after.end_ms) == (5000, 5800)


def test_two_lines_break_after_a_clause_and_are_much_alike() -> None:
    (cue,) = lines(make_transcript(("When the rain had stopped, they all went out to the garden.", 0.0, 4.0)))
    assert cue == ("When the rain had stopped,", "they all went out to the garden.")


def test_segments_without_word_times_have_cues_too() -> None:
    made = make_transcript(
        ("a sentence that was not aligned at all but is long enough for two cues " * 2, 0.0, 9.0), word_times=False
    )
    assert len(lines(made)) >= 2
    assert " ".join(" ".join(cue) for cue in lines(made)).split() == made.segments[0].text.split()


def test_no_space_is_put_between_words_that_have_none() -> None:
    words = [
        Word(text=text, start_s=n, end_s=n + 1, method="alignment") for n, text in enumerate(["会議", "は", "三時"])
    ]
    made = Transcript(language="ja", segments=[Segment(start_s=0, end_s=3, text="会議は三時", words=words)])
    assert lines(made) == [("会議は三時",)]


def test_speakers_do_not_share_a_cue_and_are_named_in_webvtt() -> None:
    made = make_transcript(("Hello", 0.0, 0.5), ("there", 0.5, 1.0))
    made.segments[0].speaker, made.segments[1].speaker = "A & <B>", "C"
    assert len(lines(made)) == 2
    assert "<v A &amp; &lt;B&gt;>Hello" in vtt(cues_of(made))


def test_nothing_said_gives_valid_empty_files() -> None:
    assert cues_of(Transcript(language="")) == []
    assert srt([]) == ""
    assert vtt([]) == "WEBVTT\n"


def test_files_are_as_written_down_by_hand() -> None:
    made = make_transcript(("Tom & <b>Jerry</b> --> here.", 1.0, 3.5), ("Next hour.", 3661.25, 3662.5))
    assert srt(cues_of(made)) == (
        "1\n00:00:01,000 --> 00:00:03,500\nTom & <b>Jerry</b> → here.\n\n2\n01:01:01,250 --> 01:01:02,500\nNext hour.\n"
    )
    assert vtt(cues_of(made)) == (
        "WEBVTT\n\n00:00:01.000 --> 00:00:03.500\nTom &amp; &lt;b&gt;Jerry&lt;/b&gt; --&gt; here.\n"
        "\n01:01:01.250 --> 01:01:02.500\nNext hour.\n"
    )


@pytest.mark.parametrize("format", ["srt", "vtt"])
def test_another_reader_reads_the_same(format: str) -> None:
    made = make_transcript(
        *((f"Sentence number {n} is said here, and it is said well.", n * 4.0, n * 4 + 3.2) for n in range(20))
    )
    cues = cues_of(made)
    read = pysubs2.SSAFile.from_string({"srt": srt, "vtt": vtt}[format](cues), format_=format)
    assert [(event.start, event.end, event.text) for event in read] == [
        (cue.start_ms, cue.end_ms, "\\N".join(cue.lines)) for cue in cues
    ]


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    word = st.text("abcdefgh.,?", min_size=1, max_size=12) | st.text("xyz", min_size=1, max_size=100) | st.just("-->")
    at = 0
    segments: list[Segment] = []
    # Dense speech fills lines, so it must not be rare.
    pauses = draw(st.sampled_from([[0], [0, 20, 200], [0, 700, 900, 5000]]))
    lengths = draw(st.sampled_from([[50], [50, 250, 400], [0, 250, 900, 9000]]))
    for _ in range(draw(st.integers(0, 5))):
        words: list[Word] = []
        for text in draw(st.lists(word, min_size=1, max_size=40)):
            at += draw(st.sampled_from(pauses))
            length = draw(st.sampled_from(lengths))
            words.append(Word(text=text, start_s=at / 1000, end_s=(at + length) / 1000, method="alignment"))
            at += length
        text = " ".join(one.text for one in words)
        segments.append(Segment(start_s=words[0].start_s, end_s=words[-1].end_s, text=text, words=words))
    return Transcript(language="en", segments=segments)


@given(transcripts())
def test_every_cue_keeps_its_limits_and_no_word_is_lost(transcript: Transcript) -> None:
    cues = cues_of(transcript)
    words = [word for segment in transcript.segments for word in segment.words]
    shown = "".join("".join(cue.lines) for cue in cues)
    assert shown.replace(" ", "") == "".join(word.text for word in words)
    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        assert all(0 < len(line) <= LINE_LENGTH for line in cue.lines)
        assert 0 < cue.end_ms - cue.start_ms <= LONGEST_MS
        # Never over silence: it begins with a word and ends with one, or a little after.
        assert any(ms(word.start_s) <= cue.start_ms <= ms(word.end_s) + 1 for word in words)
        assert any(ms(word.start_s) <= cue.end_ms <= ms(word.end_s) + LINGER_MS + 1 for word in words)
    assert all(before.end_ms <= after.start_ms for before, after in pairwise(cues))
    assert not re.search(r"-->.*-->", srt(cues))


def test_ordinary_speech_is_slow_enough_to_read() -> None:
    sentence = "This is how people talk when they are not in a hurry, with a breath here and there."
    made = make_transcript(*((sentence, n * 6.0, n * 6 + 5.4) for n in range(50)))
    cues = cues_of(made)
    assert len(cues) >= 50
    for cue in cues:
        assert sum(map(len, cue.lines)) * 1000 / (cue.end_ms - cue.start_ms) <= READING_RATE
        assert cue.end_ms - cue.start_ms >= 800
