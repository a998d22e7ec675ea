"""Clients that go on submitting while parts of the service fail."""

import http.client
import json
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from omni_jobs.access import read_key
from tests.faults.cluster import Cluster
from tests.faults.fake import Script


@dataclass(frozen=True, slots=True)
class Posted:
    at: float  # monotonic, when it was sent
    seconds: float  # until it was answered
    status: int  # 0: the connection broke
    job_id: str
    script: Script


class Client:
    """Posts to the API over one connection, as a program would."""

    def __init__(self, made: Cluster, url: str) -> None:
        self._made = made
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        self._key = read_key(made.settings)

    def post(self, script: Script) -> Posted:
        path = self._made.folder / "in" / f"{script.name}.json"
        path.write_bytes(script.to_bytes())
        body = json.dumps({"uri": path.as_uri(), "reuse": False, "options": {"word_times": False}})
        headers = {"Content-Type": "application/json", "X-Api-Key": self._key}
        started = time.monotonic()
        status, job_id = 0, ""
        try:
            self._connection.request("POST", "/v1/jobs", body, headers)
            answer = self._connection.getresponse()
            said = json.loads(answer.read())
            status, job_id = answer.status, said.get("id", "")
        except (OSError, http.client.HTTPException):
            self._connection.close()
        return Posted(started, time.monotonic() - started, status, job_id, script)


class Load:
    """Posts one job after another, so many a second, until it is told to stop."""

    def __init__(self, made: Cluster, url: str, *, per_s: float) -> None:
        self._client, self._every_s = Client(made, url), 1 / per_s
        self._stop = threading.Event()
        self.posted: list[Posted] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            number = len(self.posted)
            self.posted.append(self._client.post(Script(f"load-{number}", spans=1 + number % 2, prepare_s=0.05)))

    def stop(self) -> list[Posted]:
        self._stop.set()
        self._thread.join()
        return self.posted

    def taken(self) -> dict[str, Script]:
        """What was promised an answer."""
        return {one.job_id: one.script for one in self.posted if one.status == 202}


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]
