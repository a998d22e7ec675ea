"""The certificate: what became of every second of sound and video, and of every page, that was asked for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from omni_jobs.job import Task, UnitKind, UnitState
from omni_jobs.result import Captions, Coverage, Covered, Document, Page, Total, Transcript
from workers.results.outcome import SourceOutcome, UnitOutcome
from workers.results.speakers import untold
from workers.results.stretches import Layer, Stretch, minus, ms, overlap, painted, seconds, union

# Speech without words below this length, beside words, is their breath and fade; so is a pause between words.
SMALL_MS = 1500
# What lies between two units, or before the first and after the last, belongs to its neighbour up to this length.
SPAN_SLACK_MS = 100
CLIP_SLACK_MS = 1000

Medium = Literal["speech", "video", "page"]


class Verdict(NamedTuple):
    state: Literal["done", "empty", "failed"]
    reason: str = ""


DONE = Verdict("done")
QUIET = Verdict("empty", "no speech heard")
WORDLESS = Verdict("empty", "speech was heard but no words were found")
UNSEEN = Verdict("empty", "nothing to say about it")
PICTURELESS = Verdict("empty", "no pictures here")
BLANK = Verdict("empty", "blank page")
PRINTLESS = Verdict("empty", "a picture in which no print was found")
UNASKED = Verdict("failed", "no unit was made of it")
Piece = tuple[int, int, Verdict]
Reached = list[tuple[UnitOutcome, Stretch]]


def coverage_of(
    source: SourceOutcome, transcript: Transcript | None, captions: Captions | None, document: Document | None
) -> Coverage:
    """Entries of each medium that was asked for: together exactly what was asked, each part once."""
    entries: list[Covered] = []
    whole = _asked(source)
    if Task.TRANSCRIBE in source.tasks and whole is not None:
        entries += _timed("speech", _speech(source, whole, transcript or Transcript(language="")))
    if Task.CAPTION in source.tasks and whole is not None:
        entries += _timed("video", _video(source, whole, captions or Captions()))
    if Task.DOCUMENT in source.tasks:
        entries += _pages(source, document or Document())
    return Coverage(totals=_totals(entries), entries=entries)


def gaps_of(coverage: Coverage) -> int:
    """Entries that failed; any of them makes a job `partial`."""
    return sum(entry.state == "failed" for entry in coverage.entries)


def _asked(source: SourceOutcome) -> Stretch | None:
    """The stretch that was asked for; None when nobody knows how long the source is."""
    ends = [float(unit.input["end_s"]) for unit in source.units if "end_s" in unit.input]
    ends += [gap[2] for gap in source.gaps]
    length_s = source.duration_s if source.duration_s is not None else max(ends, default=None)
    if length_s is None:
        return None
    start_s, end_s = source.range_s
    high = ms(length_s if end_s is None else min(length_s, end_s))
    return min(ms(start_s), high), high


def _speech(source: SourceOutcome, whole: Stretch, transcript: Transcript) -> list[Piece]:
    if source.error is not None:
        return [(*whole, _failed(source.error))]
    spans = [unit for unit in source.units if unit.kind is UnitKind.SPAN]
    first = _reached([unit for unit in spans if "redo_of" not in unit.input], whole, SPAN_SLACK_MS)
    again = _reached([unit for unit in spans if "redo_of" in unit.input], whole, 0)
    redone = union(stretch for unit, stretch in again if unit.state is UnitState.DONE)
    words = union(
        (ms(timed.start_s), ms(timed.end_s)) for segment in transcript.segments for timed in segment.words or [segment]
    )
    heard = union(
        (ms(low), ms(high))
        for low, high in [*source.speech, *(pair for unit in spans for pair in unit.input.get("speech", ()))]
    )
    failed = [
        *_gaps(source, "speech"),
        *(Layer(_dead(unit), minus([stretch], redone)) for unit, stretch in first if unit.state is UnitState.DEAD),
    ]
    wordless = _wordless(heard, words, union(stretch for layer in failed for stretch in layer.stretches))
    layers = [
        *failed,
        Layer(DONE, words),
        *(
            Layer(_dead(unit), minus([stretch], minus([stretch], wordless)))
            for unit, stretch in again
            if unit.state is UnitState.DEAD
        ),
        Layer(UNASKED, minus(heard, union(stretch for _, stretch in first))),
        Layer(WORDLESS, wordless),
        Layer(DONE, heard),
    ]
    pieces = _without_pauses(painted(whole, QUIET, layers))
    if reason := untold(source.units):
        # The words are there: that is no gap.
        return [(low, high, Verdict("done", reason) if verdict == DONE else verdict) for low, high, verdict in pieces]
    return pieces


def _wordless(heard: Iterable[Stretch], words: Sequence[Stretch], failed: Sequence[Stretch]) -> list[Stretch]:
    """Speech without words that did not fail, less the short edges of speech that has some words."""
    found: list[Stretch] = []
    for low, high in heard:
        spoken = overlap(words, low, high) > 0
        rest = minus(minus([(low, high)], words), failed)
        found += [(start, end) for start, end in rest if not spoken or end - start >= SMALL_MS]
    return found


def _without_pauses(pieces: Sequence[Piece]) -> list[Piece]:
    """Short quiet between done pieces joined with them."""
    joined: list[Piece] = []
    for index, (start, end, verdict) in enumerate(pieces):
        between = 0 < index < len(pieces) - 1 and pieces[index - 1][2] == DONE == pieces[index + 1][2]
        if verdict == QUIET and between and end - start < SMALL_MS:
            verdict = DONE
        if joined and joined[-1][2] == verdict:
            joined[-1] = (joined[-1][0], end, verdict)
        else:
            joined.append((start, end, verdict))
    return joined


def _video(source: SourceOutcome, whole: Stretch, captions: Captions) -> list[Piece]:
    if source.error is not None:
        return [(*whole, _failed(source.error))]
    clips = _reached([unit for unit in source.units if unit.kind is UnitKind.CLIP], whole, CLIP_SLACK_MS)
    shots = [(caption, (ms(caption.start_s), ms(caption.end_s))) for caption in captions.captions]
    described = union(stretch for caption, stretch in shots if caption.text or caption.on_screen)
    between = minus(
        union(stretch for unit, stretch in clips if unit.state is UnitState.DONE),
        union(stretch for _, stretch in shots),
    )
    layers = [
        *_gaps(source, "video"),
        *(Layer(_dead(unit), [stretch]) for unit, stretch in clips if unit.state is UnitState.DEAD),
        Layer(DONE, described),
        Layer(UNSEEN, union(stretch for _, stretch in shots)),
        # The last frame of a shot ends before the first of the next.
        Layer(DONE, [piece for piece in between if piece[1] - piece[0] <= CLIP_SLACK_MS and described]),
        Layer(UNSEEN, union(stretch for unit, stretch in clips if unit.state is UnitState.DONE)),
        # Sound may begin before the pictures and go on after them. What the file promises and does not give is a gap.
        Layer(PICTURELESS, _outside(clips, whole)),
    ]
    return painted(whole, UNASKED, layers)


def _reached(units: Iterable[UnitOutcome], whole: Stretch, slack: int) -> Reached:
    """Units in time order, each with its stretch, stretched to its neighbour or the end where that is near."""
    found = sorted(
        ((unit, (ms(unit.input["start_s"]), ms(unit.input["end_s"]))) for unit in units), key=lambda pair: pair[1]
    )
    reached: Reached = []
    low = whole[0]
    for index, (unit, (start, end)) in enumerate(found):
        high = found[index + 1][1][0] if index + 1 < len(found) else whole[1]
        reached.append((unit, (low if 0 < start - low <= slack else start, high if 0 < high - end <= slack else end)))
        low = max(low, reached[-1][1][1])
    return reached


def _outside(reached: Reached, whole: Stretch) -> list[Stretch]:
    """What lies before the first unit and after the last; without units nobody knows."""
    if not reached:
        return []
    return minus([whole], [(reached[0][1][0], max(end for _, (_, end) in reached))])


def _gaps(source: SourceOutcome, medium: Medium) -> list[Layer[Verdict]]:
    return [
        Layer(Verdict("failed", _undecoded(reason)), union([(ms(start_s), ms(end_s))]))
        for name, start_s, end_s, reason in source.gaps
        if name == medium
    ]


def _undecoded(reason: str) -> str:
    return f"could not be decoded: {reason}" if reason else "could not be decoded"


def _timed(medium: Medium, pieces: Iterable[Piece]) -> list[Covered]:
    return [
        Covered(medium=medium, state=verdict.state, reason=verdict.reason, start_s=seconds(start), end_s=seconds(end))
        for start, end, verdict in pieces
    ]


def _pages(source: SourceOutcome, document: Document) -> list[Covered]:
    verdicts: dict[int, Verdict] = {}
    for unit in source.units:
        if unit.kind is UnitKind.PAGE:
            verdicts[int(unit.input["page"])] = _dead(unit) if unit.state is UnitState.DEAD else UNASKED
    if not verdicts:
        verdicts = dict.fromkeys(range(1, (source.pages or 0) + 1), UNASKED)
    for name, page, _, reason in source.gaps:
        if name == "page":
            verdicts[int(page)] = Verdict("failed", _undecoded(reason))
    unread = {
        int(unit.input["page"]): unit.answer.get("unread", "")
        for unit in source.units
        if unit.kind is UnitKind.PAGE and unit.answer is not None
    }
    for page in document.pages:
        if verdicts.get(page.page) == UNASKED:
            verdicts[page.page] = _read(page, unread.get(page.page, ""))
    if source.error is not None:
        verdicts = dict.fromkeys(verdicts, _failed(source.error))
    return [
        Covered(medium="page", state=verdict.state, reason=verdict.reason, page=page)
        for page, verdict in sorted(verdicts.items())
    ]


def _read(page: Page, unread: str) -> Verdict:
    """What became of an answered page; `unread` says what of it the answer lacks."""
    if page.blocks:
        return Verdict("done", unread)
    if unread:
        return Verdict("failed", unread)
    return BLANK if page.text_source == "none" else PRINTLESS


def _failed(error: Mapping[str, Any] | None) -> Verdict:
    return Verdict("failed", (error or {}).get("message") or "it failed without saying why")


def _dead(unit: UnitOutcome) -> Verdict:
    verdict = _failed(unit.error)
    return verdict if unit.kept is None else Verdict("failed", f"{verdict.reason}; the best rejected answer is shown")


def _totals(entries: Iterable[Covered]) -> dict[Medium, Total]:
    """Seconds or pages by state. Summed as integers: total = done + empty + failed to the millisecond."""
    sums: dict[Medium, dict[str, int]] = {}
    for entry in entries:
        amount = 1000 if entry.start_s is None or entry.end_s is None else ms(entry.end_s) - ms(entry.start_s)
        of_medium = sums.setdefault(entry.medium, {})
        of_medium[entry.state] = of_medium.get(entry.state, 0) + amount
    return {
        medium: Total(
            total=seconds(sum(of_medium.values())),
            done=seconds(of_medium.get("done", 0)),
            empty=seconds(of_medium.get("empty", 0)),
            failed=seconds(of_medium.get("failed", 0)),
        )
        for medium, of_medium in sums.items()
    }
