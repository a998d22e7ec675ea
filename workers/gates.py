"""Whether an answer may be stored: verdicts that look at nothing but the answer, and how many ways of asking there are.

A rung is a way of asking: 0 at first, and after each rejection the next. The same input asked in the same way gives
the same answer, so a rung changes something (a span as utterances instead of windows, a page enlarged, more frames of
a clip). An answer refused on the last rung is kept and shown as what it is; its stretch is a gap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workers.answers import ClipAnswer, PageAnswer, ReduceAnswer, SpanAnswer

# The last rung of each kind.
LADDER = {"span": 1, "clip": 1, "page": 1, "reduce": 1}

# Times are rounded to milliseconds, and a unit may end within one of Whisper's steps of 20 ms, or within a frame.
TOLERANCE_S = 0.1
REPEATS = 4
# A loop is no loop while it is shorter: people do say "no, no, no, no", and laugh.
LEAST_WORDS = 8
LEAST_SIGNS = 16  # in languages that put nothing between words
SPACELESS = ("zh", "ja", "yue", "th", "lo", "my", "km", "bo")
# Words of what repeats: as many as are said in half a minute, which is all that Whisper hears at once.
LONGEST = 120


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why an answer is refused."""

    gate: str
    message: str


def check(
    kind: str, answer: SpanAnswer | ClipAnswer | PageAnswer | ReduceAnswer, *, start_s: float, end_s: float
) -> Verdict | None:
    """The first gate that refuses the answer; None when all let it pass.

    Args:
        kind: of the unit: span, clip, page or reduce.
        start_s: where the unit begins in the source.
        end_s: where it ends.

    Raises:
        ValueError: there is no ladder for this kind.
    """
    if kind not in LADDER:
        raise ValueError(f"expected a kind out of {', '.join(LADDER)}, got {kind}")
    match answer:
        case SpanAnswer():
            return _times_of_span(answer, start_s, end_s) or _repetition(answer)
        case ClipAnswer():
            return _times("shots", [(shot.start_s, shot.end_s) for shot in answer.shots], start_s, end_s)
        case _:
            return None


def _times_of_span(answer: SpanAnswer, start_s: float, end_s: float) -> Verdict | None:
    segments = [(segment.start_s, segment.end_s) for segment in answer.segments]
    words = [(word.start_s, word.end_s) for segment in answer.segments for word in segment.words]
    return _times("segments", segments, start_s, end_s) or _times("words", words, start_s, end_s)


def _times(what: str, times: Sequence[tuple[float, float]], start_s: float, end_s: float) -> Verdict | None:
    """Times lie in the unit, none ends before it begins, and none begins before the one in front of it."""
    low, high = max(0.0, start_s - TOLERANCE_S), end_s + TOLERANCE_S
    before_s = low
    for begin, end in times:
        if not (math.isfinite(begin) and math.isfinite(end) and low <= begin and end <= high and begin <= end):
            found = f"one from {begin:.3f} to {end:.3f} s in a unit from {start_s:.3f} to {end_s:.3f} s"
            return Verdict("time order", f"the times of its {what} cannot be: {found}")
        if begin < before_s - TOLERANCE_S:
            found = f"one begins at {begin:.3f} s after one at {before_s:.3f} s"
            return Verdict("time order", f"the times of its {what} run back: {found}")
        before_s = max(before_s, begin)
    return None


def _repetition(answer: SpanAnswer) -> Verdict | None:
    """Whisper's way to fail: the same words, or the same sentence, over and over."""
    text = " ".join(segment.text for segment in answer.segments).casefold()
    words = [word for word in ("".join(filter(str.isalnum, part)) for part in text.split()) if word]
    if not words:
        return None
    spaceless = answer.language in SPACELESS
    units = list("".join(words)) if spaceless else words
    found = _loop(units, LEAST_SIGNS if spaceless else LEAST_WORDS)
    if found is None:
        return None
    at, length, times = found
    said = ("" if spaceless else " ").join(units[at : at + min(length, 12)])
    return Verdict("repetition", f"it says the same {times} times in a row: {said}{' ...' if length > 12 else ''}")


def _loop(units: Sequence[str], least: int) -> tuple[int, int, int] | None:
    """Start, length and count of the shortest run of units that comes `REPEATS` times in a row or more."""
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    ids = np.array([numbers[unit] for unit in units])
    for length in range(1, min(LONGEST, len(ids) // REPEATS) + 1):
        # Where a unit is the same as the one `length` before it, for long enough at a stretch.
        needed = max(REPEATS * length, least) - length
        edges = np.flatnonzero(np.diff(np.r_[False, ids[length:] == ids[:-length], False]))
        starts, runs = edges[::2], edges[1::2] - edges[::2]
        if runs.size and runs.max() >= needed:
            at = int(runs.argmax())
            return int(starts[at]), length, int(runs[at]) // length + 1
    return None
