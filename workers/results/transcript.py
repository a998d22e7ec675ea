"""The transcript of a source out of its spans: no doubles at the seams, second tries merged in, times in order."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from omni_jobs.job import UnitKind, UnitState
from omni_jobs.result import Segment, Transcript, Word
from workers.answers import SpanAnswer, SpokenSegment, SpokenWord, WordsAnswer
from workers.results.clock import clock
from workers.results.outcome import SourceOutcome, UnitOutcome
from workers.results.spelling import cut, part

# Two words of different spans are the same words when they share more than this part of the shorter one.
SAME = 0.5


@dataclass(frozen=True, slots=True)
class Span:
    """A span that has an answer.

    Attributes:
        segments: what was said in it, with the best word times there are, inside its bounds.
        unaligned: why its words have no aligned times; empty when they have.
    """

    unit: UnitOutcome
    start_s: float
    end_s: float
    segments: list[Segment]
    unaligned: str


def transcript_of(source: SourceOutcome) -> Transcript:
    spans = _spans(source.units)
    taken = _Taken()
    first: list[Segment] = []
    again: list[Segment] = []
    for span in spans:
        into = again if "redo_of" in span.unit.input else first
        into += taken.add([kept for segment in span.segments if (kept := taken.without(segment)) is not None])
    segments = _monotone(_interleaved(first, again))
    return Transcript(language=_main_language(segments), segments=segments, notes=_notes(spans))


def _spans(units: Sequence[UnitOutcome]) -> list[Span]:
    """First tries in time order, then second tries in time order."""
    aligned = {unit.input.get("of"): unit for unit in units if unit.kind is UnitKind.WORDS}
    answered = [unit for unit in units if unit.kind is UnitKind.SPAN and (unit.answer or unit.kept)]
    answered.sort(key=lambda unit: ("redo_of" in unit.input, unit.input["start_s"], unit.position))
    return [_span(unit, aligned.get(unit.unit_id)) for unit in answered]


def _span(unit: UnitOutcome, words: UnitOutcome | None) -> Span:
    answer = SpanAnswer.model_validate(unit.answer or unit.kept)
    start_s, end_s = float(unit.input["start_s"]), float(unit.input["end_s"])
    aligned, unaligned = _aligned(answer, words)
    segments = [
        _segment(spoken, found or spoken.words, answer.language, start_s, end_s)
        for spoken, found in zip(answer.segments, aligned, strict=True)
        if spoken.text.strip() or found or spoken.words
    ]
    return Span(unit, start_s, end_s, segments, unaligned if segments else "")


def _aligned(answer: SpanAnswer, unit: UnitOutcome | None) -> tuple[list[list[SpokenWord]], str]:
    """Words per segment, and why they are not aligned."""
    none: list[list[SpokenWord]] = [[] for _ in answer.segments]
    if unit is None:
        return none, "they were not asked for"
    if unit.state is not UnitState.DONE or unit.answer is None:
        return none, (unit.error or {}).get("message") or "alignment did not finish"
    words = WordsAnswer.model_validate(unit.answer)
    if len(words.segments) != len(answer.segments):
        return none, f"alignment gave {len(words.segments)} segments for {len(answer.segments)}"
    return (
        words.segments,
        "" if words.method == "alignment" else words.reason or f"their times come from {words.method}",
    )


def _segment(
    spoken: SpokenSegment, found: Sequence[SpokenWord], language: str, start_s: float, end_s: float
) -> Segment:
    def inside(time_s: float) -> float:
        return round(min(max(time_s, start_s), end_s), 3)

    words = [
        Word(
            text=word.text.strip(),
            start_s=inside(word.start_s),
            end_s=inside(max(word.start_s, word.end_s)),
            confidence=word.confidence,
            method=word.method,
        )
        for word in found
        if word.text.strip()
    ]
    return Segment(
        start_s=words[0].start_s if words else inside(spoken.start_s),
        end_s=max(word.end_s for word in words) if words else inside(max(spoken.start_s, spoken.end_s)),
        text=" ".join(spoken.text.split()) or " ".join(word.text for word in words),
        language=language,
        confidence=spoken.confidence,
        words=words,
    )


@dataclass(slots=True)
class _Taken:
    """The times at which other spans already have a word."""

    times: list[tuple[float, float]] = field(default_factory=list)
    until_s: float = 0.0

    def without(self, segment: Segment) -> Segment | None:
        """The segment less the words that are there already; None when nothing is left."""
        if segment.start_s >= self.until_s:
            return segment
        if not segment.words:
            return None if self._has(segment.start_s, segment.end_s) else segment
        kept = [word for word in segment.words if not self._has(word.start_s, word.end_s)]
        if len(kept) == len(segment.words):
            return segment
        return part(segment, kept) if kept else None

    def add(self, segments: list[Segment]) -> list[Segment]:
        for segment in segments:
            for timed in segment.words or [segment]:
                insort(self.times, (timed.start_s, timed.end_s))
                self.until_s = max(self.until_s, timed.end_s)
        return segments

    def _has(self, start_s: float, end_s: float) -> bool:
        index = max(0, bisect_left(self.times, (start_s, start_s)) - 1)
        while index < len(self.times) and self.times[index][0] < end_s:
            low, high = self.times[index]
            shared = min(high, end_s) - max(low, start_s)
            if shared > SAME * min(high - low, end_s - start_s):
                return True
            index += 1
        return False


def _interleaved(first: list[Segment], again: list[Segment]) -> list[Segment]:
    """Both in time order; a segment is cut where one of the other list begins between two of its words."""
    if not again:
        return first
    pieces = _cut_at(first, [segment.start_s for segment in again])
    return sorted(pieces + _cut_at(again, [piece.start_s for piece in pieces]), key=lambda piece: piece.start_s)


def _cut_at(segments: Iterable[Segment], starts: Sequence[float]) -> list[Segment]:
    starts = sorted(starts)
    pieces: list[Segment] = []
    for segment in segments:
        inside = starts[bisect_left(starts, segment.start_s) : bisect_left(starts, segment.end_s)]
        middles = [(word.start_s + word.end_s) / 2 for word in segment.words]
        pieces += cut(segment, [sum(middle < start for middle in middles) for start in inside])
    return pieces


def _monotone(segments: list[Segment]) -> list[Segment]:
    """The same with starts that never run back and no end behind the next start."""
    timed: list[Word | Segment] = [entry for segment in segments for entry in (segment.words or [segment])]
    at = 0.0
    for entry in timed:
        entry.start_s = at = max(entry.start_s, at)
        entry.end_s = max(entry.end_s, at)
    for entry, following in pairwise(timed):
        entry.end_s = min(entry.end_s, following.start_s)
    for segment in segments:
        if segment.words:
            segment.start_s, segment.end_s = segment.words[0].start_s, segment.words[-1].end_s
    return segments


def _main_language(segments: Iterable[Segment]) -> str:
    """The language of most of the speech, by its seconds."""
    spoken_s: dict[str, float] = {}
    for segment in segments:
        seconds = sum(timed.end_s - timed.start_s for timed in segment.words or [segment])
        spoken_s[segment.language] = spoken_s.get(segment.language, 0.0) + seconds
    named = {language: seconds for language, seconds in spoken_s.items() if language}
    return max(named, key=lambda language: named[language], default="")


def _notes(spans: Sequence[Span]) -> list[str]:
    notes: list[str] = []
    spoken = [span for span in spans if span.segments]
    for reason in dict.fromkeys(span.unaligned for span in spoken if span.unaligned):
        count = sum(span.unaligned == reason for span in spoken)
        notes.append(f"words have no aligned times in {count} of {len(spoken)} spans: {reason}")
    for span in spans:
        if span.unit.answer is None:
            error = (span.unit.error or {}).get("message", "a check rejected it")
            notes.append(f"{clock(span.start_s)} to {clock(span.end_s)} is the best of the rejected answers: {error}")
    return notes
