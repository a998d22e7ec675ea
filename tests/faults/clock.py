"""A wall clock that is wrong, and jumps: what a worker is started with when `FAKE_CLOCK_S` is set."""

import datetime
import sys
import time
from typing import Any

HOLDS_S = 1.0  # so long it is fast, and then as long slow


def make_wrong(by_s: float) -> None:
    """From now on all clocks of this process but the monotonic one are `by_s` fast and slow by turns."""
    real_time, real_time_ns, real_datetime = time.time, time.time_ns, datetime.datetime

    def off_s() -> float:
        return by_s if int(time.monotonic() / HOLDS_S) % 2 else -by_s

    class Wrong(real_datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return real_datetime.now(tz) + datetime.timedelta(seconds=off_s())

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(datetime.UTC).replace(tzinfo=None)

    wrong: list[tuple[object, object]] = [
        (real_time, lambda: real_time() + off_s()),
        (real_time_ns, lambda: int((real_time() + off_s()) * 1e9)),
        (real_datetime, Wrong),
    ]
    # Modules that have imported one of them by name get the wrong one, too.
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            for right, false in wrong:
                if value is right:
                    setattr(module, name, false)
