"""Moments to come, as people type them."""

import re
from datetime import UTC, datetime, timedelta

from omni_jobs.errors import UsageError

IN_A_WHILE = re.compile(r"\+([0-9]{1,6})([smhd])")
UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


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
