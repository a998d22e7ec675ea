"""Submitting many files and watching their jobs at once.

A second thread sends the files one after the other; the main thread looks at the jobs in turn, so that Ctrl-C is
noticed at once. Each file's results are written as soon as its job has ended. What goes wrong with a file stays there.
"""

import os
import queue
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from omni_jobs.cli.outputs import Shelf
from omni_jobs.cli.progress import View, gaps_of
from omni_jobs.cli.reach import Found, Reach, patiently
from omni_jobs.cli.times import clock
from omni_jobs.errors import (
    ErrorType,
    OmniError,
    Problem,
    Refused,
    SourceError,
    TooMany,
    Unavailable,
    UsageError,
    problem_of,
)
from omni_jobs.formats import SUFFIX_OF

OPEN_STATES = ("queued", "running")
# A job is looked at the more often, the younger it is; all together no more than so many in a round.
FIRST_LOOK_S, LAST_LOOK_S = 0.05, 1.0
LOOKS_PER_AGE = 5.0
LOOKS_PER_ROUND = 10
ROUND_S = 0.05
# An upload that is done sooner is not worth a line.
QUIET_S = 1.0


@dataclass(frozen=True, slots=True)
class Sending:
    """A file on its way to the API."""

    path: Path
    total_bytes: int
    sent_bytes: int
    began: float


@dataclass(eq=False, slots=True)
class Entry:
    """One file of a run.

    Attributes:
        job: as the API last showed it; None until submitted.
        problem: of the file before it was a job, or of writing its results.
        ended: nothing more will happen to it in this run.
    """

    path: Path
    job: dict[str, Any] | None = None
    problem: Problem | None = None
    files: dict[str, Path] = field(default_factory=dict)
    ended: bool = False
    began: float = field(default_factory=time.monotonic)
    next_look: float = 0.0

    @property
    def state(self) -> str:
        # A result that is there and could not be fetched or written counts as none.
        return "failed" if self.job is None or self.problem is not None else self.job["state"]

    @property
    def error(self) -> dict[str, Any] | None:
        """Why it has no result, or not all of it on disk."""
        if self.problem is not None:
            return self.problem.as_json()
        if self.job is None or self.job["state"] not in ("failed", "partial"):
            return None
        own = (source.get("error") for source in self.job.get("sources") or [])
        return self.job.get("error") or next(filter(None, own), None)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.job["id"] if self.job else None,
            "source": str(self.path),
            "state": self.state,
            "files": {format: str(path) for format, path in self.files.items()},
            "error": self.error,
            "coverage": (self.job or {}).get("coverage") or {},
        }


class Run:
    """All files of one command.

    Args:
        paths: in the order of the command; the same file twice is one entry.
        request: what is asked of every file.
    """

    def __init__(
        self, reach: Reach, paths: Sequence[Path], request: Mapping[str, Any], *, shelf: Shelf, view: View
    ) -> None:
        self._reach, self._request, self._shelf, self._view = reach, dict(request), shelf, view
        self.entries = {path: Entry(path) for path in paths}
        self._halt = threading.Event()
        self._submitted: queue.SimpleQueue[tuple[Entry, dict[str, Any] | Exception]] = queue.SimpleQueue()
        self._sending: Sending | None = None

    def go(self) -> None:
        """Returns when every entry has ended."""
        # A daemon: an upload that hangs must not hold the process after Ctrl-C.
        threading.Thread(target=self._submit_all, name="submit", daemon=True).start()
        try:
            while not all(entry.ended for entry in self.entries.values()):
                self._take_submitted()
                for entry in self._due():
                    self._look(entry)
        finally:
            self._halt.set()

    # The second thread.

    def _submit_all(self) -> None:
        silence: Unavailable | None = None
        for entry in self.entries.values():
            if self._halt.is_set():
                return
            try:
                if silence is not None:
                    # Nobody waits once more for every file that is left.
                    raise silence
                self._submitted.put((entry, self._submit(entry)))
            except Unavailable as error:
                silence = error
                self._submitted.put((entry, error))
            except Exception as error:
                self._submitted.put((entry, error))

    def _submit(self, entry: Entry) -> dict[str, Any]:
        start = Sending(entry.path, _size_of(entry.path), 0, time.monotonic())
        self._sending = start
        call_key = uuid.uuid4().hex

        def note(sent_bytes: int) -> None:
            self._sending = replace(start, sent_bytes=min(sent_bytes, start.total_bytes))

        try:
            return patiently(
                lambda: self._reach.client.submit_file(
                    entry.path, self._request, attach=True, on_sent=note, idempotency_key=call_key
                ),
                wait=self._halt.wait,
                renew=self._reach.renew,
            )
        finally:
            self._sending = None

    # The main thread.

    def _take_submitted(self) -> None:
        timeout_s: float | None = ROUND_S
        while True:
            try:
                entry, outcome = self._submitted.get(timeout=timeout_s)
            except queue.Empty:
                break
            timeout_s = 0.0
            if entry.ended:
                continue
            if isinstance(outcome, Exception):
                self._fail(entry, submit_problem(outcome))
            else:
                entry.began = time.monotonic()
                self._see(entry, outcome)
        sending = self._sending
        if sending is not None and time.monotonic() - sending.began > QUIET_S:
            self._view.sending(sending.path, sending.sent_bytes, sending.total_bytes)

    def _due(self) -> Iterator[Entry]:
        now = time.monotonic()
        due = [entry for entry in self.entries.values() if entry.job and not entry.ended and entry.next_look <= now]
        return iter(sorted(due, key=lambda entry: entry.next_look)[:LOOKS_PER_ROUND])

    def _look(self, entry: Entry) -> None:
        assert entry.job is not None
        try:
            self._see(entry, self._call(partial(self._get, entry.job["id"])))
        except Unavailable as error:
            self._lose_sight(error)
        except OmniError as error:
            self._fail(entry, problem_of(error))

    def _see(self, entry: Entry, job: dict[str, Any]) -> None:
        entry.job = job
        now = time.monotonic()
        entry.next_look = now + min(LAST_LOOK_S, max(FIRST_LOOK_S, (now - entry.began) / LOOKS_PER_AGE))
        if job["state"] in OPEN_STATES:
            self._view.show(entry.path, job)
            return
        try:
            entry.files = self._fetch(entry, job)
        except OSError as error:
            where = error.filename or self._shelf.folder
            self._fail(entry, Problem(ErrorType.INTERNAL, f"cannot write {where}: {error.strerror or error}", True))
        except OmniError as error:
            again = isinstance(error, Unavailable)
            self._fail(entry, Problem(ErrorType.INTERNAL, f"cannot fetch the result: {error}", again))
        else:
            self._end(entry)

    def _fetch(self, entry: Entry, job: dict[str, Any]) -> dict[str, Path]:
        def write() -> dict[str, Path]:
            fetch = partial(self._reach.client.result, job["id"])
            return self._shelf.put(entry.path, job.get("formats") or (), fetch)

        return self._call(write)

    def _get(self, job_id: str) -> dict[str, Any]:
        return self._reach.client.get(job_id)

    def _call(self, call: Callable[[], Found]) -> Found:
        return patiently(call, wait=time.sleep, renew=self._reach.renew)

    def _lose_sight(self, error: Unavailable) -> None:
        """The API has been silent for as long as we wait: no job can be watched any more."""
        self._halt.set()
        for entry in self.entries.values():
            if not entry.ended:
                fate = f"; the job may go on: omni-jobs status {entry.job['id']}" if entry.job else ""
                self._fail(entry, Problem(ErrorType.INTERNAL, f"{error}{fate}", retryable=True))

    def _fail(self, entry: Entry, problem: Problem) -> None:
        entry.problem = problem
        self._end(entry)

    def _end(self, entry: Entry) -> None:
        entry.ended = True
        self._view.end(entry.path, last_line(entry))


def last_line(entry: Entry) -> str:
    """What became of a file, in one line."""
    name = entry.path.name
    if entry.error is not None and entry.state == "failed":
        return f"{name}: failed: {entry.error['type']}: {entry.error['message']}"
    assert entry.job is not None
    words = [f"{name}: {entry.state}"]
    if entry.state == "partial":
        words.append(f"without {gaps_of(entry.job)}" if gaps_of(entry.job) else "with gaps")
        if entry.error is not None:
            words.append(f"({entry.error['type']}: {entry.error['message']})")
    if entry.job.get("reused_from"):
        words.append("(answered before)")
    elif entry.state in ("succeeded", "partial"):
        words.append(f"after {clock(time.monotonic() - entry.began)}")
    return " ".join(words) + (f", {written(entry)}" if entry.files else "")


def written(entry: Entry) -> str:
    """The files of an entry as one word: `omni-out/talk.{result.json,srt}`."""
    format, path = next(iter(entry.files.items()))
    near = os.path.relpath(path)
    base = (str(path) if near.startswith("..") else near).removesuffix(SUFFIX_OF[format])
    endings = [SUFFIX_OF[each].removeprefix(".") for each in entry.files]
    return f"{base}.{endings[0]}" if len(endings) == 1 else f"{base}.{{{','.join(endings)}}}"


def submit_problem(error: Exception) -> Problem:
    """Why a file could not be made a job, in the terms of the closed list."""
    match error:
        case OSError():
            return Problem(ErrorType.UNREADABLE, f"cannot read the file: {error.strerror or error}")
        case SourceError():
            return error.problem
        case Refused() | Unavailable() | TooMany():
            return Problem(ErrorType.INTERNAL, str(error), retryable=not isinstance(error, Refused))
        case UsageError(kind=kind) if kind in set(ErrorType):
            return Problem(ErrorType(kind), str(error))
        case UsageError(pointer=None, kind="invalid"):
            return Problem(ErrorType.UNREADABLE, str(error))
        case UsageError():
            return Problem(ErrorType.UNSUPPORTED, str(error))
        case _:
            return problem_of(error)


def _size_of(path: Path) -> int:
    """Of a file that can be read now.

    Raises:
        SourceError: it is no regular file; a FIFO would block.
        OSError: it cannot be read.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        # One that could not be listed: others are not among the files.
        raise SourceError(ErrorType.UNREADABLE, "cannot look into the folder: what it holds is left out")
    if not stat.S_ISREG(found.st_mode):
        raise SourceError(ErrorType.UNREADABLE, f"expected a regular file, got {stat.filemode(found.st_mode)}")
    with open(path, "rb"):
        return found.st_size
