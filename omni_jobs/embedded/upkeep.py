"""Starting again what ended, later and later while it keeps ending."""

import logging

from omni_jobs.embedded.process import Process, rotate

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
# Whoever ran for so long was well: its next end begins with the first delay again.
STEADY_S = 60.0
ROTATE_S = 60.0

log = logging.getLogger(__name__)


class Upkeep:
    """One child that should run. Times are `time.monotonic()`."""

    def __init__(self, process: Process, now: float) -> None:
        self.process = process
        self._started = self._rotated = now
        self._delay_s = FIRST_DELAY_S
        self._due: float | None = None

    def tend(self, now: float) -> bool:
        """Looks after it; True when it was started again. Runs in the main thread."""
        status = self.process.ended()
        if status is None:
            self._rotate(now)
            return False
        if self._due is None:
            self._plan(now, status)
        if self._due is None or now < self._due:
            return False
        self._due, self._started = None, now
        try:
            self.process.start()
        except OSError as error:
            # No memory, no room for its log: the next look plans another try.
            log.error("child.unstarted name=%s error=%s", self.process.name, error)
            return False
        log.info("child.started name=%s pid=%d", self.process.name, self.process.pid)
        return True

    def _plan(self, now: float, status: int) -> None:
        if now - self._started > STEADY_S:
            self._delay_s = FIRST_DELAY_S
        self._due = now + self._delay_s
        log.warning("child.ended name=%s status=%d again_in_s=%.1f", self.process.name, status, self._delay_s)
        self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)

    def _rotate(self, now: float) -> None:
        if now - self._rotated > ROTATE_S:
            self._rotated = now
            rotate(self.process.log_path)
