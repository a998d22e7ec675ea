"""The API from the caller's side: submit, look, wait, fetch. Bodies stream, so memory stays flat for any file.

Answers are the API's own JSON as dicts. Every failure is an error of `omni_jobs.errors`, made from the problem+json
that came: `NotFound`, `Conflict`, `TooMany` (429), other `UsageError`, `Refused` (401, 403, 421), `Damaged`,
`Unavailable` (no answer, 5xx). Where as many jobs are open as may be, `submit_file` and `submit_uri` wait.
"""

import io
import json
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx2

from omni_jobs.access import is_loopback
from omni_jobs.errors import Conflict, Damaged, NotFound, OmniError, Refused, TooMany, Unavailable, UsageError

Job = dict[str, Any]
OPEN_STATES = ("queued", "running")
WAIT_S = 25.0
# How long `wait` puts up with an API that does not answer, such as one that restarts.
PATIENCE_S = 60.0
# How long `submit_*` wait for room when too many jobs are open.
ROOM_TIMEOUT_S = 600.0
# An upload is answered once the store has it all.
TIMEOUT = httpx2.Timeout(60.0, connect=5.0)
UPLOAD_TIMEOUT = httpx2.Timeout(600.0, connect=5.0)


class Client:
    """One API. Threads may share it; close it, or use it in `with`.

    Args:
        room_timeout_s: how long `submit_*` wait while as many jobs are open as may be; 0: not at all.
    """

    def __init__(self, url: str, key: str = "", *, room_timeout_s: float = ROOM_TIMEOUT_S) -> None:
        self.url, self._room_timeout_s = url.rstrip("/"), room_timeout_s
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx2.Client(
                base_url=self.url,
                headers=headers,
                timeout=TIMEOUT,
                # A proxy of the environment cannot know our loopback.
                trust_env=not is_loopback(urlsplit(self.url).hostname or ""),
            )
        except (httpx2.InvalidURL, ValueError, UnicodeError) as error:
            raise UsageError(f"expected the API's URL such as http://127.0.0.1:8000, got {url!r}") from error

    def submit_file(
        self,
        path: Path | str,
        request: Job | None = None,
        *,
        attach: bool = False,
        on_sent: Callable[[int], None] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Send a file and make a job of it.

        Args:
            path: of a regular file.
            request: `task`, `options`, `metadata`, `reuse`, `name`, `password`, `priority`, `deadline`; all may be
                left out.
            attach: go on with an open job of the same bytes, name and options.
            on_sent: told how many bytes of the file have been sent so far.
            idempotency_key: makes this call safe to repeat.

        Raises:
            TooMany: as many jobs are open as may be, and stayed so.
        """
        path = Path(path)
        return self._when_there_is_room(lambda: self._send_file(path, request, attach, on_sent, idempotency_key))

    def _send_file(
        self,
        path: Path,
        request: Job | None,
        attach: bool,
        on_sent: Callable[[int], None] | None,
        idempotency_key: str | None,
    ) -> Job:
        body = {"name": _text(path.name), **(request or {})}
        with _opened(path) as file:
            # The request goes first, so that a mistake in it is answered before the bytes have gone up.
            files: list[tuple[str, Any]] = [
                ("request", (None, json.dumps(body).encode(), "application/json")),
                ("file", (_text(path.name), _Sent(file, on_sent), "application/octet-stream")),
            ]
            return self._json(
                "POST",
                "/v1/jobs",
                files=files,
                params={"attach": "true"} if attach else None,
                headers=_key_header(idempotency_key),
                timeout=UPLOAD_TIMEOUT,
            )

    def submit_uri(self, uri: str, request: Job | None = None, *, idempotency_key: str | None = None) -> Job:
        """Make a job of an `s3://` or `file://` source that the server reads itself."""
        body, headers = {"uri": uri, **(request or {})}, _key_header(idempotency_key)
        return self._when_there_is_room(lambda: self._json("POST", "/v1/jobs", json=body, headers=headers))

    def _when_there_is_room(self, submit: Callable[[], Job]) -> Job:
        until = time.monotonic() + self._room_timeout_s
        while True:
            try:
                return submit()
            except TooMany as error:
                # Not all who wait come back at once.
                pause_s = error.retry_after_s * random.uniform(0.8, 1.6)
                if time.monotonic() + pause_s > until:
                    raise
                time.sleep(pause_s)

    def get(self, job_id: str, wait: float | None = None) -> Job:
        """A job as it is, or after it changed, at most `wait` seconds later."""
        job, _ = self._look(job_id, wait=wait)
        assert job is not None
        return job

    def list(self, *, limit: int = 50, cursor: str | None = None, state: str | None = None) -> dict[str, Any]:
        """A page of jobs, newest first: {"jobs": [...], "next": cursor or None}."""
        params = {"limit": limit, "cursor": cursor, "state": state}
        return self._json(
            "GET", "/v1/jobs", params={name: value for name, value in params.items() if value is not None}
        )

    def cancel(self, job_id: str) -> Job:
        return self._json("POST", f"/v1/jobs/{_segment(job_id)}/cancel")

    def retry(self, job_id: str, password: str = "") -> Job:
        """Try again what a partial or failed job could not answer.

        Raises:
            Conflict: it lacks nothing, or is open.
        """
        body = {"password": password} if password else {}
        return self._json("POST", f"/v1/jobs/{_segment(job_id)}/retry", json=body)

    def delete(self, job_id: str) -> None:
        """Remove a job with everything that was made of it; an open one is cancelled by it."""
        self._send("DELETE", f"/v1/jobs/{_segment(job_id)}")

    def dead(self, limit: int = 100) -> "list[dict[str, Any]]":
        """Units that were given up, newest first: {unit_id, job_id, job_name, kind, error, ...}."""
        return self._json("GET", "/v1/dead", params={"limit": limit})["units"]

    def events(self, job_id: str, after: int = 0) -> "list[dict[str, Any]]":
        """Up to 500 events after number `after`: {seq, at, type, data}."""
        return self._json("GET", f"/v1/jobs/{_segment(job_id)}/events", params={"after": after})

    def result(self, job_id: str, format: str = "json") -> Iterator[bytes]:
        """The bytes of a result, in pieces; errors are raised by the call itself.

        Raises:
            NotFound: no such job, or none in this format.
            Damaged: the API has lost its bytes; another format may be whole.
            Conflict: the job is not done yet.
        """
        request = self._http.build_request("GET", f"/v1/jobs/{_segment(job_id)}/result", params={"format": format})
        with _answering(self.url):
            response = self._http.send(request, stream=True)
            if response.is_error:
                response.read()
                response.close()
                raise error_of(response)
        return self._pieces(response)

    def _pieces(self, response: httpx2.Response) -> Iterator[bytes]:
        try:
            with _answering(self.url):
                yield from response.iter_bytes(1 << 16)
        finally:
            response.close()

    def wait(self, job_id: str, on_change: Callable[[Job], None] | None = None) -> Job:
        """The job once it has ended. An API that restarts meanwhile is waited for."""
        etag: str | None = None
        last_answer = time.monotonic()
        while True:
            try:
                # The first answer comes at once, each later one when something is new.
                job, etag = self._look(job_id, wait=WAIT_S if etag else None, etag=etag)
            except Unavailable:
                if time.monotonic() - last_answer > PATIENCE_S:
                    raise
                time.sleep(0.5)
                continue
            last_answer = time.monotonic()
            if job is None:
                continue
            if on_change is not None:
                on_change(job)
            if job["state"] not in OPEN_STATES:
                return job

    def health(self) -> dict[str, Any]:
        """What the API says of its parts: {"status": "ready" | "degraded", "parts": {...}}."""
        return self._json("GET", "/health/ready")

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _look(
        self, job_id: str, *, wait: float | None = None, etag: str | None = None
    ) -> tuple[Job | None, str | None]:
        """A job and its version; None for a job that is still at `etag` after the wait."""
        response = self._send(
            "GET",
            f"/v1/jobs/{_segment(job_id)}",
            params={} if wait is None else {"wait": wait},
            headers={"If-None-Match": etag} if etag else {},
            timeout=httpx2.Timeout(60.0 + (wait or 0.0), connect=5.0),
        )
        if response.status_code == 304:
            return None, etag
        return response.json(), response.headers.get("etag")

    def _json(self, method: str, path: str, **options: Any) -> Any:
        return self._send(method, path, **options).json()

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        with _answering(self.url):
            response = self._http.request(method, path, **options)
        if response.is_error:
            raise error_of(response)
        return response


class _Sent(io.RawIOBase):
    """A file that tells how much of it was read."""

    def __init__(self, file: io.BufferedReader, on_sent: Callable[[int], None] | None) -> None:
        self._file, self._on_sent, self._sent = file, on_sent, 0

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._sent += len(data)
        if data and self._on_sent is not None:
            self._on_sent(self._sent)
        return data


def error_of(response: httpx2.Response) -> OmniError:
    """The error that a problem+json answer stands for."""
    try:
        problem = response.json()
        assert isinstance(problem, dict)
    except (ValueError, AssertionError):
        problem = {}
    sentence = problem.get("detail") or problem.get("title") or f"the API answered {response.status_code}"
    faults = problem.get("errors") or []
    if faults:
        sentence = "; ".join(f"{fault.get('pointer') or 'request'}: {fault.get('detail')}" for fault in faults)
    kind = str(problem.get("type", "")).rpartition("/")[2] or "invalid"
    pointer = faults[0].get("pointer") if faults else None
    match response.status_code:
        case 401 | 403 | 421:
            return Refused(sentence)
        case 404:
            return NotFound(sentence)
        case 409:
            return Conflict(sentence)
        case 429:
            return TooMany(sentence, retry_after_s=_seconds(response.headers.get("retry-after")))
        case _ if kind == "damaged":
            return Damaged(sentence)
        case status if status >= 500:
            return Unavailable(sentence)
        case _ if kind == "conflict":
            return Conflict(sentence)
        case _:
            return UsageError(sentence, pointer=pointer, kind=kind)


@contextmanager
def _answering(url: str) -> Iterator[None]:
    try:
        yield
    except httpx2.LocalProtocolError as error:
        raise UsageError(f"the file changed while it was sent, or the request cannot be sent: {error}") from error
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise UsageError(f"expected the API's URL such as http://127.0.0.1:8000, got {url!r}") from error
    except httpx2.HTTPError as error:
        raise Unavailable(f"the API at {url} does not answer: {error or type(error).__name__}") from error


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    try:
        # A FIFO would block here, and has no size.
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"expected a file, got {path}")
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    with file:
        yield file


def _seconds(retry_after: str | None) -> float:
    try:
        return min(max(float(retry_after or ""), 0.1), 60.0)
    except ValueError:
        return 5.0


def _key_header(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key} if key else {}


def _segment(job_id: str) -> str:
    """A job id as part of a path; anything else is no job of ours."""
    if not job_id or not all(letter.isalnum() or letter == "-" for letter in job_id):
        raise NotFound(f"no job {job_id!r}")
    return job_id


def _text(name: str) -> str:
    """A file name whose bytes may not be UTF-8, as text."""
    return os.fsencode(name).decode("utf-8", "replace")
