"""A small API over real HTTP: jobs go through the states that a test wrote down for a file's name."""

import copy
import json
import sys
import threading
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "k-test"
FORMATS = ("json", "srt", "vtt", "txt", "md")
MEDIA_PROGRESS = {"units_done": 1, "units_total": 4, "units_dead": 0, "media_s_done": 30.0, "media_s_total": 120.0,
                  "words_s_done": 0.0, "words_s_total": 0.0, "pages_done": 0, "pages_total": 0,
                  "fraction": 0.25, "eta_s": 90.0}  # fmt: skip
RUNNING = {"state": "running", "phase": "map", "progress": MEDIA_PROGRESS}
DONE = {"state": "succeeded", "phase": "deliver", "formats": [*FORMATS, "manifest"],
        "coverage": {"speech": {"done": 120.0, "empty": 0, "failed": 0}}}  # fmt: skip
PARTIAL = DONE | {"state": "partial", "coverage": {"speech": {"done": 90.0, "empty": 0, "failed": 30.0}}}
FAILED = {"state": "failed", "phase": "prepare",
          "error": {"type": "encrypted", "message": "it needs a password", "retryable": False}}  # fmt: skip
CANCELLED = {"state": "cancelled"}


class FakeApi:
    """What tests set and look at.

    Attributes:
        scripts: by file name, the changes of the job at each look; the last one stays.
        refused: by file name, (status, problem) instead of a job.
        limits: the `limit` of every list that was asked for.
        dead: the units that were given up.
        retried: (job, body) of every retry.
        outages: so many requests are answered with 503 first.
        submitted: (name, request, attach) of every submission.
        looks: by job, how often it was looked at.
    """

    def __init__(self) -> None:
        self.scripts: dict[str, list[dict[str, Any]]] = {}
        self.refused: dict[str, tuple[int, dict[str, Any]]] = {}
        self.outages = 0
        self.submitted: list[tuple[str, dict[str, Any], bool]] = []
        self.limits: list[int] = []
        self.dead: list[dict[str, Any]] = []
        self.retried: list[tuple[str, dict[str, Any]]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.contents: dict[str, bytes] = {}
        self.events: list[dict[str, Any]] = []
        self.looks: dict[str, int] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name: str, **changes: Any) -> dict[str, Any]:
        number = len(self.jobs) + 1
        job = {
            "id": f"{0x01993F50 + number:08x}-0000-7000-8000-{number:012d}", "name": name, "state": "queued",
            "phase": "prepare", "task": "auto", "sources": [_source(name)], "progress": MEDIA_PROGRESS,
            "coverage": {}, "error": None, "waiting": None, "reused_from": None, "revision": 1, "metadata": {},
            "options": {}, "created_at": "2026-08-01T10:00:00Z", "started_at": None, "finished_at": None,
            "formats": [], "links": {},
        } | changes  # fmt: skip
        self.jobs[job["id"]] = job
        return job

    def submit(self, name: str, request: dict[str, Any], attach: bool) -> dict[str, Any]:
        with self._lock:
            self.submitted.append((name, request, attach))
            for job in self.jobs.values():
                if attach and job["name"] == name and job["state"] in ("queued", "running"):
                    return job
            return self.add(name)

    def look(self, job_id: str) -> dict[str, Any] | None:
        with self._lock:
            job = self.jobs.get(job_id)
            if job is not None and job["state"] in ("queued", "running"):
                script = self.scripts.get(job["name"], [RUNNING, DONE])
                seen = self.looks[job_id] = self.looks.get(job_id, -1) + 1
                job.update(copy.deepcopy(script[min(seen, len(script) - 1)]))
            return copy.deepcopy(job)

    def result(self, job_id: str, format: str) -> bytes:
        job = self.jobs[job_id]
        name, own = job["name"], self.contents.get(job["name"], b"")
        if format == "json":
            body = {
                "job": {"job_id": job_id, "revision": 1, "state": job["state"], "created_at": f"at {job_id}",
                        "options": {}, "reused_from": None},
                "sources": [{"source_id": f"s-{job_id}", "uri": f"upload:{job_id}", "name": name, "own": own.decode()}],
            }  # fmt: skip
            return json.dumps(body).encode()
        return f"{format} of {name} ".encode() + own


def _source(name: str) -> dict[str, Any]:
    return {"id": "s", "uri": f"upload:{name}", "name": name, "medium": "audio", "container": "wav",
            "duration_s": 120.0, "pages": None, "size_bytes": 1000, "sha256": "0" * 64, "tasks": ["transcribe"],
            "error": None}  # fmt: skip


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A caller may leave in the middle of an answer.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    api: FakeApi
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        place, query = self._place()
        body = self._body()
        if not self._let_in():
            return
        if place == ["v1", "jobs"]:
            name, request = self._submission(body)
            if name in self.api.refused:
                status, problem = self.api.refused[name]
                self._answer(status, problem)
            else:
                self._answer(202, self.api.submit(name, request, query.get("attach") == ["true"]))
        elif place[-1] in ("cancel", "retry"):
            job = self.api.jobs.get(place[2])
            if job is None:
                self._answer(404, {"detail": f"no job {place[2]}"})
            elif place[-1] == "retry":
                self.api.retried.append((job["id"], json.loads(body or b"{}")))
                job.update(RUNNING, revision=job["revision"] + 1)
                self._answer(202, job)
            else:
                job.update(CANCELLED)
                self._answer(200, job)

    def do_DELETE(self) -> None:
        place, _ = self._place()
        if self._let_in():
            if self.api.jobs.pop(place[2], None) is None:
                self._answer(404, {"detail": f"no job {place[2]}"})
            else:
                self.send_response(204)
                self.end_headers()

    def do_GET(self) -> None:
        place, query = self._place()
        if not self._let_in():
            return
        if place == ["v1", "jobs"]:
            wanted = query.get("state", [None])[0]
            self.api.limits.append(int(query["limit"][0]))
            found = [job for job in self.api.jobs.values() if wanted in (None, job["state"])]
            self._answer(200, {"jobs": sorted(found, key=lambda job: job["id"], reverse=True), "next": None})
            return
        if place == ["v1", "dead"]:
            self._answer(200, {"units": self.api.dead[: int(query["limit"][0])]})
            return
        job = self.api.look(place[2])
        if job is None:
            self._answer(404, {"detail": f"no job {place[2]}"})
        elif place[-1] == "events":
            after = int(query.get("after", ["0"])[0])
            self._answer(200, [event for event in self.api.events if event["seq"] > after])
        elif place[-1] == "result" and not job["formats"]:
            self._answer(409, {"detail": "the job is not done yet"})
        elif place[-1] == "result":
            self._send(200, self.api.result(job["id"], query["format"][0]), "application/octet-stream")
        else:
            self._answer(200, job)

    def _place(self) -> tuple[list[str], dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return parts.path.strip("/").split("/"), parse_qs(parts.query)

    def _let_in(self) -> bool:
        if self.api.outages > 0:
            self.api.outages -= 1
            self._answer(503, {"detail": "the database does not answer"})
            return False
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            self._answer(401, {"detail": "expected a valid key"})
            return False
        return True

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _submission(self, body: bytes) -> tuple[str, dict[str, Any]]:
        kind = self.headers["Content-Type"]
        if kind.startswith("application/json"):
            request = json.loads(body)
            return request["uri"].rpartition("/")[2], request
        message = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}  # type: ignore[union-attr]
        request = json.loads(parts["request"].get_payload(decode=True))  # type: ignore[arg-type, union-attr]
        return parts["file"].get_filename(), request  # type: ignore[return-value, union-attr]

    def _answer(self, status: int, document: Any) -> None:
        kind = "application/json" if status < 400 else "application/problem+json"
        self._send(status, json.dumps(document).encode(), kind)

    def _send(self, status: int, body: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # an interrupted client
            self.close_connection = True
