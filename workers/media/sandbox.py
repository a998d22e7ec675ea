"""Runs one decoding operation in a child process with limits, and streams what it says.

The child is a fresh interpreter in its own session. It gets the source as an open, read-only descriptor, never
a path; no environment, no other files, no more memory or time than `Limits` says (see `child`). The caller's
thread waits here and nowhere else: `cancel` is looked at every 50 ms, so a child is gone within 0.2 s of it.
Time counts only while the caller waits for the child; a consumer that stores each page slowly costs none.
Signals that reach the child from outside are not the source's fault: one that asks it to end (a service manager
signals every process of a service) counts as a cancel, SIGKILL (the machine is out of memory) may be tried again.
"""

import contextlib
import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from omni_jobs.errors import ErrorType, SourceError
from workers.media.wire import Inbox, Message

POLL_S = 0.05
PIPE_BYTES = 1 << 20
LEAST_MEMORY_BYTES = 384 << 20  # below, not even the libraries load
ROOT = Path(__file__).parents[2]
VERDICT_S = 5.0  # how long a child that has closed its pipes may take to end
ASKED_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
OUT_OF_MEMORY = (b"MemoryError", b"bad_alloc", b"annot allocate memory", b"failed to map segment", b"malloc")


class SandboxCancelled(Exception):
    """The caller's `cancel` was set, or the child was asked to end from outside; it is dead."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one child may use.

    Attributes:
        memory_bytes: address space, the interpreter and its libraries (about 0.3 GB) included.
        timeout_s: seconds the caller waits in all.
        quiet_s: seconds without a message after which the child counts as hung; None: only `timeout_s` counts.
        threads: decoding threads.
    """

    memory_bytes: int = 2 << 30
    timeout_s: float = 3600.0
    quiet_s: float | None = None
    threads: int = 2

    def __post_init__(self) -> None:
        if self.memory_bytes < LEAST_MEMORY_BYTES:
            least = LEAST_MEMORY_BYTES >> 20
            raise ValueError(f"expected at least {least} MiB for a child, got {self.memory_bytes >> 20} MiB")


def run(
    operation: str,
    source: BinaryIO,
    params: dict[str, Any],
    limits: Limits,
    cancel: threading.Event | None = None,
) -> Iterator[Message]:
    """Yield the messages of `operation` on `source`; closing the iterator kills the child.

    Raises:
        SourceError: what the child says of the source, or how the child ended (timeout, crashed, too_large).
        SandboxCancelled: `cancel` was set, or the child was told to end by a signal from outside.
    """
    if os.fstat(source.fileno()).st_size == 0:
        raise SourceError(ErrorType.EMPTY, "expected a file with content, got one of 0 bytes")
    child = _Child(operation, source, params, limits, cancel)
    try:
        yield from child.messages()
    finally:
        child.close()


class _Child:
    def __init__(
        self,
        operation: str,
        source: BinaryIO,
        params: dict[str, Any],
        limits: Limits,
        cancel: threading.Event | None,
    ) -> None:
        self._limits, self._cancel = limits, cancel
        self._inbox = Inbox()
        self._stderr = bytearray()
        self._waited_s = self._quiet_s = 0.0
        self._selector = selectors.DefaultSelector()
        self._process, self._results = _start(operation, source, params, limits)
        self._selector.register(self._results, selectors.EVENT_READ, "results")
        assert self._process.stderr is not None
        self._selector.register(self._process.stderr, selectors.EVENT_READ, "stderr")

    def messages(self) -> Iterator[Message]:
        while True:
            if self._cancel is not None and self._cancel.is_set():
                raise SandboxCancelled
            message = self._take()
            if message is None:
                if not self._selector.get_map():
                    raise self._verdict()
                self._wait()
                continue
            self._quiet_s = 0.0
            if message.kind == "done":
                return
            if message.kind == "error":
                raise SourceError(message.head["type"], message.head["message"])
            yield message

    def close(self) -> None:
        """End the child and everything it started.

        Nothing reaps it before: until then its number cannot belong to another process.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        os.close(self._results)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _take(self) -> Message | None:
        try:
            return self._inbox.take()
        except ValueError as error:
            raise SourceError(ErrorType.CRASHED, "decoding this file broke the decoder") from error

    def _wait(self) -> None:
        begun = time.monotonic()
        events = self._selector.select(POLL_S)
        elapsed_s = time.monotonic() - begun
        self._waited_s += elapsed_s
        self._quiet_s += elapsed_s
        for key, _ in events:
            data = os.read(key.fd, PIPE_BYTES)
            if not data:
                self._selector.unregister(key.fileobj)
            elif key.data == "results":
                self._inbox.feed(data)
            else:
                self._stderr = (self._stderr + data)[-8192:]
        if self._waited_s > self._limits.timeout_s:
            raise _timeout(self._limits.timeout_s)
        if not events and self._limits.quiet_s is not None and self._quiet_s > self._limits.quiet_s:
            raise _timeout(self._limits.quiet_s)

    def _verdict(self) -> Exception:
        """What the end of a child that did not say `done` means."""
        ended = self._ended()
        if ended is None:
            return SourceError(ErrorType.CRASHED, "decoding this file left the decoder hanging without an answer")
        if any(word in self._stderr for word in OUT_OF_MEMORY):
            return too_large_for(self._limits.memory_bytes)
        if ended.si_code == os.CLD_EXITED:
            text = f"decoding this file ended the decoder with status {ended.si_status}"
            return SourceError(ErrorType.CRASHED, text)
        if ended.si_status == signal.SIGXCPU:
            return _timeout(self._limits.timeout_s)
        if ended.si_status in ASKED_TO_END:
            return SandboxCancelled(f"the decoder was told to end by {_signal_name(ended.si_status)}")
        # Here nobody of ours has sent it one yet: the kernel did, for want of memory, or somebody else.
        killed = ended.si_status == signal.SIGKILL
        text = f"decoding this file ended the decoder with the signal {_signal_name(ended.si_status)}"
        return SourceError(ErrorType.CRASHED, text, retryable=killed)

    def _ended(self) -> os.waitid_result | None:
        """How the child ended, seen without reaping it; None if it has not."""
        latest = time.monotonic() + VERDICT_S
        while (seen := os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)) is None:
            if time.monotonic() > latest:
                return None
            time.sleep(0.01)
        return seen


def too_large_for(memory_bytes: int) -> SourceError:
    return SourceError(
        ErrorType.TOO_LARGE, f"expected a file that decodes within {memory_bytes >> 20} MiB of memory, got a larger one"
    )


def _timeout(limit_s: float) -> SourceError:
    return SourceError(ErrorType.TIMEOUT, f"expected decoding to end within {limit_s:g} s, but it had not")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _start(
    operation: str, source: BinaryIO, params: dict[str, Any], limits: Limits
) -> tuple[subprocess.Popen[bytes], int]:
    """The started child and the reading end of its results."""
    fds: list[int] = []
    results, child_end = os.pipe()
    try:
        fds.append(child_end)
        with contextlib.suppress(OSError):
            fcntl.fcntl(results, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        # Opened anew: an offset of its own, and no more than reading, whatever the caller's descriptor may do.
        fds.append(os.open(f"/proc/self/fd/{source.fileno()}", os.O_RDONLY))
        # Not in argv: a password would be seen in the process list.
        fds.append(os.memfd_create("params"))
        os.write(fds[2], json.dumps({"params": params, "limits": _limits_json(limits)}).encode())
        os.lseek(fds[2], 0, os.SEEK_SET)
        process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-m", "workers.media.child", operation, str(fds[1]), str(fds[0])],
            stdin=fds[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(fds[1], fds[0]),
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )
    except BaseException:
        os.close(results)
        raise
    finally:
        for fd in fds:
            os.close(fd)
    return process, results


def _limits_json(limits: Limits) -> dict[str, int]:
    return {
        "memory_bytes": limits.memory_bytes,
        "cpu_s": int((limits.timeout_s + 10) * max(1, limits.threads)),
        "threads": limits.threads,
    }


def _environment() -> dict[str, str]:
    # Arenas and BLAS threads reserve address space that RLIMIT_AS would count.
    return {
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
