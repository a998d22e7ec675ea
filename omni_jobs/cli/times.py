"""Seconds of media, as people type them and as they read them."""

import math
import re

from omni_jobs.errors import UsageError

# So few digits that no time is endless.
SECONDS = r"[0-9]{1,9}(?:\.[0-9]*)?"
CLOCK = re.compile(rf"(?:(?:([0-9]{{1,6}}):)?([0-9]{{1,2}}):)?({SECONDS})")


def seconds_of(text: str, option: str) -> float:
    """`90`, `1:30` or `00:01:30.5` as seconds.

    Raises:
        UsageError: none of these, or 60 and more where a larger unit stands before it.
    """
    match = CLOCK.fullmatch(text.strip())
    if match:
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        if not ((match[2] and seconds >= 60) or (match[1] and minutes >= 60)):
            return hours * 3600 + minutes * 60 + seconds
    raise UsageError(f"{option}: expected seconds or hh:mm:ss such as 90 or 00:01:30, got {text!r}")


def clock(seconds: float) -> str:
    """`mm:ss`, or `h:mm:ss` from one hour on."""
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{second:02}" if hours else f"{minutes:02}:{second:02}"


def size(count: float) -> str:
    """Bytes for people."""
    if count < 1000:
        return f"{count:.0f} B"
    power = min(int(math.log10(count)) // 3, 4)
    return f"{count / 1000**power:.1f} {' kMGT'[power]}B"
