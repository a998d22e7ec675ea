"""What could not be decoded, as stretches of source time. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

LEAST_TAIL_S = 0.25

Reason = Literal["damaged", "missing", "hole"]


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch without content.

    Attributes:
        reason: `damaged`: the decoder refused it; `missing`: the file ends before the end it promises;
            `hole`: the timestamps jump and nothing says why (a pause, or lost packets).
    """

    start_s: float
    end_s: float
    reason: Reason


def merge(gaps: Iterable[Gap], apart_s: float = 0.25) -> tuple[Gap, ...]:
    """Sorted, with neighbours of the same reason joined."""
    merged: list[Gap] = []
    for gap in sorted(gaps, key=lambda gap: (gap.start_s, gap.end_s)):
        last = merged[-1] if merged else None
        if last and last.reason == gap.reason and gap.start_s <= last.end_s + apart_s:
            merged[-1] = Gap(last.start_s, max(last.end_s, gap.end_s), gap.reason)
        else:
            merged.append(gap)
    return tuple(merged)


def missing_tail(
    decoded_until_s: float, promised_s: float | None, begins_s: float = 0.0, asked_s: float | None = None
) -> Gap | None:
    """The end a header promises and the file does not hold, as far as it was asked for.

    None when the promise is kept or not believable: a lying header must not create hours of nothing, so more than ten
    times of what is there is not believed.
    """
    if promised_s is None:
        return None
    there_s = max(decoded_until_s - begins_s, 0.0)
    if promised_s - decoded_until_s <= max(LEAST_TAIL_S, 0.005 * promised_s):
        return None
    if promised_s - begins_s > max(60.0, 10 * there_s):
        return None
    end_s = promised_s if asked_s is None else min(promised_s, asked_s)
    return Gap(decoded_until_s, end_s, "missing") if end_s - decoded_until_s > LEAST_TAIL_S else None


def within(gaps: Iterable[Gap], end_s: float | None) -> tuple[Gap, ...]:
    """The gaps, less what lies after the end that was asked for."""
    if end_s is None:
        return tuple(gaps)
    return tuple(Gap(gap.start_s, min(gap.end_s, end_s), gap.reason) for gap in gaps if gap.start_s < end_s)
