"""What `run` shows while jobs go on: a live table on a terminal, plain lines elsewhere. Always on stderr."""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from omni_jobs.cli.terminal import plain
from omni_jobs.cli.times import clock, size

if TYPE_CHECKING:
    from rich.progress import TaskID

PLAIN_EVERY_S = 2.0
MOST_ROWS = 12


def phase_of(job: dict[str, Any]) -> str:
    """Where a job is, in one word."""
    return job["phase"] if job["state"] == "running" else job["state"]


def place_of(job: dict[str, Any]) -> str:
    """How far it is: media as mm:ss, pages, word times, and how long it still takes."""
    if job.get("waiting"):
        return f"waits: {job['waiting']}"
    progress = job.get("progress") or {}
    parts = []
    if progress.get("media_s_total"):
        parts.append(f"{clock(progress['media_s_done'])}/{clock(progress['media_s_total'])}")
    if progress.get("pages_total"):
        parts.append(f"{progress['pages_done']:g}/{progress['pages_total']:g} pages")
    if progress.get("words_s_total") and _whole(progress, "media_s"):
        parts.append(f"words {clock(progress['words_s_done'])}/{clock(progress['words_s_total'])}")
    if progress.get("eta_s"):
        parts.append(f"ETA {clock(progress['eta_s'])}")
    return " ".join(parts)


def fraction_of(job: dict[str, Any]) -> float:
    return float((job.get("progress") or {}).get("fraction") or 0.0)


def gaps_of(job: dict[str, Any]) -> str:
    """What of it has no answer, in words; empty when nothing is missing."""
    units = {"speech": "of speech", "video": "of video", "page": "pages"}
    parts = []
    for medium, totals in (job.get("coverage") or {}).items():
        if failed := totals.get("failed"):
            amount = f"{failed:g}" if medium == "page" else clock(failed)
            parts.append(f"{amount} {units.get(medium, medium)}")
    return ", ".join(parts)


def _whole(progress: dict[str, Any], what: str) -> bool:
    return progress[f"{what}_done"] >= progress[f"{what}_total"]


class View(ABC):
    """Shows several files at once; used by one thread."""

    @abstractmethod
    def sending(self, path: Path, sent_bytes: int, total_bytes: int) -> None: ...

    @abstractmethod
    def show(self, path: Path, job: dict[str, Any]) -> None: ...

    @abstractmethod
    def end(self, path: Path, line: str) -> None:
        """The last line about a file."""

    @abstractmethod
    def say(self, line: str) -> None:
        """Something that concerns no file."""

    def __enter__(self) -> "View":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None


class Lines(View):
    """One line per change, and per file at most one every `PLAIN_EVERY_S`; the last one always comes."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._now = clock
        self._said: dict[Path, tuple[float, str]] = {}

    def sending(self, path: Path, sent_bytes: int, total_bytes: int) -> None:
        self._change(path, f"{path.name}: sending {size(sent_bytes)} of {size(total_bytes)}")

    def show(self, path: Path, job: dict[str, Any]) -> None:
        self._change(path, f"{path.name}: {phase_of(job)} {place_of(job)}".rstrip())

    def end(self, path: Path, line: str) -> None:
        self._said.pop(path, None)
        self.say(line)

    def say(self, line: str) -> None:
        print(plain(line), file=sys.stderr, flush=True)

    def _change(self, path: Path, line: str) -> None:
        at, before = self._said.get(path, (float("-inf"), ""))
        if line != before and self._now() - at >= PLAIN_EVERY_S:
            self._said[path] = (self._now(), line)
            self.say(line)


class Table(View):
    """Live bars of the files that are under way, with how many are done below them."""

    def __init__(self, files: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[phase]}", style="cyan"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[place]}", markup=False),
        )
        self._progress: Progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._rows: dict[Path, TaskID] = {}
        self._all = self._progress.add_task("", total=files, phase="files", place=f"0/{files}", visible=files > 1)
        self._files, self._ended = files, 0

    def __enter__(self) -> "Table":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def sending(self, path: Path, sent_bytes: int, total_bytes: int) -> None:
        done = sent_bytes / total_bytes if total_bytes else 1.0
        self._row(path, done, "sending", f"{size(sent_bytes)}/{size(total_bytes)}")

    def show(self, path: Path, job: dict[str, Any]) -> None:
        self._row(path, fraction_of(job), phase_of(job), place_of(job))

    def end(self, path: Path, line: str) -> None:
        row = self._rows.pop(path, None)
        if row is not None:
            self._progress.remove_task(row)
        self._ended += 1
        self._progress.update(self._all, completed=self._ended, place=f"{self._ended}/{self._files}")
        self.say(line)

    def say(self, line: str) -> None:
        self._progress.console.print(plain(line), markup=False, highlight=False, soft_wrap=True)

    def _row(self, path: Path, done: float, phase: str, place: str) -> None:
        if path not in self._rows:
            if len(self._rows) >= MOST_ROWS:
                return
            name = plain(path.name)
            shown = name if len(name) <= 40 else f"{name[:39]}…"
            self._rows[path] = self._progress.add_task(shown, total=1.0, phase="", place="")
        self._progress.update(self._rows[path], completed=done, phase=phase, place=plain(place))
