"""Times of video frames in seconds of the source, rising whatever the timestamps do."""

from typing import Any

from workers.media.gaps import Gap
from workers.media.inside import containers

# With several decoding threads an error is told up to that many frames before the hole it leaves.
DAMAGE_LASTS_FRAMES = 24
LEAST_GAP_S = 0.5


class Clock:
    """Places frames and notes what is missing between them.

    Attributes:
        until_s: end of the last frame.
        gaps: holes that a refused packet explains.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self._zero_s = float(containers.origin(container))
        self._tick_s = float(stream.time_base)
        rate = stream.average_rate or stream.guessed_rate
        self._step_s = 1 / float(rate) if rate and 0 < rate <= 1000 else 0.04
        self._ends_s = containers.container_end(container, containers.origin(container))
        self._joined = containers.demuxer(container) in containers.DISCONTINUOUS
        self._shift_s = 0.0
        self._last_s: float | None = None
        self._damage = 0
        self.until_s = 0.0
        self.gaps: list[Gap] = []

    def source_time_s(self, pts: int) -> float:
        return pts * self._tick_s - self._zero_s

    def refused(self) -> None:
        self._damage = DAMAGE_LASTS_FRAMES

    def time_s(self, frame: Any) -> float | None:
        """The frame's time, or None where it does not come after the last one."""
        expected_s = 0.0 if self._last_s is None else self._last_s + self._step_s
        now_s = expected_s if frame.pts is None else self.source_time_s(frame.pts) + self._shift_s
        if self._last_s is not None:
            if self._jumps(now_s):
                self._shift_s += expected_s - now_s
                now_s = expected_s
            if now_s <= self._last_s:
                return None
        if self._damage and now_s - self.until_s > LEAST_GAP_S:
            self.gaps.append(Gap(self.until_s, now_s, "damaged"))
        self._damage = max(0, self._damage - 1)
        length_s = float(frame.duration) * self._tick_s if frame.duration else self._step_s
        self._last_s, self.until_s = now_s, now_s + length_s
        return now_s

    def _jumps(self, now_s: float) -> bool:
        """Whether this is no pause but another recording's clock."""
        assert self._last_s is not None
        ahead_s = now_s - self._last_s
        if ahead_s < -1 or (self._joined and ahead_s > 10):
            return True
        return self._ends_s is not None and now_s > self._ends_s + 5 and ahead_s > 10
