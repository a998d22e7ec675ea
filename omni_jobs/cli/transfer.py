"""How far a download is, in bytes: a bar on a terminal, a line every few seconds elsewhere. Always on stderr."""

import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType

from omni_jobs.cli.times import size

LINE_EVERY_S = 5.0


class Transfer(ABC):
    """Any thread may call `moved`."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self._lock = threading.Lock()

    def moved(self, count: int) -> None:
        """So many bytes more are here; fewer, if it is negative."""
        with self._lock:
            self.done_bytes += count
            self._show()

    @abstractmethod
    def _show(self) -> None: ...

    def __enter__(self) -> "Transfer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None


class Lines(Transfer):
    def __init__(self, total_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(total_bytes)
        self._now, self._said_at = clock, float("-inf")

    def _show(self) -> None:
        whole = self.done_bytes == self.total_bytes
        if whole or self._now() - self._said_at >= LINE_EVERY_S:
            self._said_at = self._now()
            print(f"{size(self.done_bytes)} of {size(self.total_bytes)}", file=sys.stderr, flush=True)


class Bar(Transfer):
    def __init__(self, total_bytes: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        super().__init__(total_bytes)
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=total_bytes)

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def _show(self) -> None:
        self._progress.update(self._task, completed=self.done_bytes)


def transfer(total_bytes: int) -> Transfer:
    """As the terminal, or its absence, asks for."""
    return Bar(total_bytes) if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else Lines(total_bytes)
