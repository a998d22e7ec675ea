"""Seconds of media and moments, as people type them and as they read them."""

import math
import re
from datetime import UTC, datetime, timedelta

from omni_jobs.errors import UsageError

# So few digits that no time is endless.
SECONDS = r"[0-9]{1,9}(?:\.[0-9]*)?"
CLOCK = re.compile(rf"(?:(?:([0-9]{{1,6}}):)?([0-9]{{1,2}}):)?({SECONDS})")
IN_A_WHILE = re.compile(r"\+([0-9]{1,6})([smhd])")
UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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


def moment_of(text: str, option: str, now: datetime | None = None) -> str:
    """`+2h` or an ISO 8601 time, of this machine's zone where it names none, as an ISO 8601 time in UTC.

    Raises:
        UsageError: neither, or not in the future.
    """
    now = now or datetime.now(UTC)
    try:
        if match := IN_A_WHILE.fullmatch(text.strip()):
            found = now + timedelta(seconds=int(match[1]) * UNIT_S[match[2]])
        else:
            found = datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        message = f"{option}: expected a time such as 2031-05-01T18:00 or +2h (s, m, h, d), got {text!r}"
        raise UsageError(message) from error
    if found <= now:
        raise UsageError(f"{option}: expected a time to come, got {text}: it is {now:%Y-%m-%dT%H:%M:%SZ} now")
    return found.isoformat(timespec="seconds")


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
