"""What could not be decoded, as stretches of source time. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

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


def missing_tail(decoded_until_s: float, promised_s: float | None, begins_s: float = 0.0) -> Gap | None:
    """The end a header promises and the file does not hold; None when the promise is kept or not believable.

    A lying header must not create hours of nothing: more than ten times of what is there is not believed.
    """
    if promised_s is None:
        return None
    there_s = max(decoded_until_s - begins_s, 0.0)
    if promised_s - decoded_until_s <= max(0.25, 0.005 * promised_s):
        return None
    return Gap(decoded_until_s, promised_s, "missing") if promised_s - begins_s <= max(60.0, 10 * there_s) else None
