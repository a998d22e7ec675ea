"""Results over HTTP."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from omni_jobs.api import reads
from omni_jobs.api.problems import NotTaken
from omni_jobs.api.results import by_accept
from omni_jobs.blobs import SHORT, BlobStore, open_blobs
from omni_jobs.errors import Unavailable
from omni_jobs.settings import Settings
from omni_jobs.store import jobs
from tests.waiting import eventually

pytestmark = pytest.mark.servers


@pytest.fixture
def done(api: TestClient, finish_job: Callable[[str], None]) -> dict[str, Any]:
    job = api.post("/v1/jobs", files={"file": ("my tälk.mp4", b"bytes")}).json()
    finish_job(job["id"])
    return job


def test_a_result_comes_in_each_format_with_its_digest(api: TestClient, done: dict[str, Any]) -> None:
    url = done["links"]["result"]
    srt = api.get(url, params={"format": "srt"})
    assert srt.status_code == 200 and srt.text.startswith("1\n00:00:00,000")
    assert srt.headers["content-type"].startswith("application/x-subrip")
    assert srt.headers["content-length"] == str(len(srt.content))
    assert srt.headers["etag"] == f'"{hashlib.sha256(srt.content).hexdigest()}"'
    assert srt.headers["content-disposition"] == "attachment; filename*=UTF-8''my%20t%C3%A4lk.srt"
    assert api.get(url, params={"format": "srt"}, headers={"If-None-Match": srt.headers["etag"]}).status_code == 304
    assert api.get(url).json() == {"schema_version": "1"}
    assert api.get(url, params={"format": "manifest"}).json() == {}


def test_accept_chooses_where_no_format_is_named(api: TestClient, done: dict[str, Any]) -> None:
    url = done["links"]["result"]
    assert api.get(url, headers={"Accept": "text/plain;q=0.5, application/x-subrip"}).text.startswith("1\n")
    assert api.get(url, headers={"Accept": "text/plain"}).text == "Hi\n"
    assert api.get(url, headers={"Accept": "image/png"}).status_code == 406


def test_accept_is_read_by_quality() -> None:
    assert by_accept("*/*") == by_accept("text/html, */*;q=0.1") == "json"
    assert by_accept("text/vtt;q=0.2, text/markdown;q=0.9") == "md"
    with pytest.raises(NotTaken):
        by_accept("text/plain;q=0, image/*;q=nonsense")


def test_what_accept_rules_out_is_not_given() -> None:
    assert by_accept("application/json;q=0, */*") == "txt"
    assert by_accept("text/*, text/plain;q=0, text/vtt;q=0.1") == "md"
    assert by_accept("*/*;q=0.5, application/json;q=0.1, text/plain;q=0.2") == "vtt"
    assert by_accept("text/vtt, text/markdown") == "vtt" and by_accept("text/markdown, text/vtt") == "md"
    for accept in ("*/*;q=0", "application/json;q=nan", "application/json; q=0"):
        with pytest.raises(NotTaken):
            by_accept(accept)


def test_head_says_what_get_would_without_reading_it(api: TestClient, done: dict[str, Any], blobs: BlobStore) -> None:
    url = done["links"]["result"]
    got = api.get(url, params={"format": "srt"})
    blobs.delete(f"default/{done['id']}/1/1/subtitles.srt")
    head = api.head(url, params={"format": "srt"})
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-length", "content-type", "content-disposition"):
        assert head.headers[name] == got.headers[name]
    assert api.head(url, params={"format": "docx"}).status_code == 404


def test_a_caller_that_has_any_version_is_not_sent_it(api: TestClient, done: dict[str, Any]) -> None:
    for link in ("result", "self"):
        assert api.get(done["links"][link], headers={"If-None-Match": "*"}).status_code == 304
    etag = api.get(done["links"]["result"]).headers["etag"]
    for known, status in ((f'W/{etag}, "x"', 304), (f'"x{etag[1:]}', 200), ('"x"', 200)):
        assert api.get(done["links"]["result"], headers={"If-None-Match": known}).status_code == status


def test_a_format_that_is_not_there_names_those_that_are(api: TestClient, done: dict[str, Any]) -> None:
    for format in ("vtt", "docx"):
        problem = api.get(done["links"]["result"], params={"format": format}).json()
        assert problem["status"] == 404 and "json, manifest, srt, txt" in problem["detail"]


def test_an_open_job_has_no_result_yet_and_a_cancelled_one_never(api: TestClient, db: Engine) -> None:
    job = api.post("/v1/jobs", json={"uri": "s3://media/a.mp4"}).json()
    problem = api.get(job["links"]["result"]).json()
    assert problem["status"] == 409 and "queued" in problem["detail"]
    jobs.cancel(db, "default", job["id"])
    problem = api.get(job["links"]["result"]).json()
    assert problem["status"] == 404 and "was cancelled and has no result" in problem["detail"]


@pytest.mark.parametrize("damage", [None, b"", b"Ho\n", b"Hi\n and more", b"H"])
def test_bytes_that_are_not_those_that_were_put_are_never_sent(
    api: TestClient, done: dict[str, Any], blobs: BlobStore, damage: bytes | None
) -> None:
    key = f"default/{done['id']}/1/1/text.txt"
    if damage is None:
        blobs.delete(key)
    else:
        blobs.put(key, damage)
    answer = api.get(done["links"]["result"], params={"format": "txt"})
    problem = answer.json()
    assert answer.status_code == 500 and problem["type"].endswith("/damaged") and problem["retryable"] is False
    assert "text.txt" in problem["detail"]


class Hanging:
    """A store that does not answer until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def open(self, key: str) -> Iterator[bytes]:
        self.let_go.wait(30)
        raise Unavailable("the object store does not answer: ReadTimeoutError")

    def put(self, key: str, data: bytes) -> None:
        raise Unavailable("the object store does not answer: ConnectTimeoutError")


class HangingOnOne(Hanging):
    """A store that has everything but one object."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.held: dict[str, bytes] = {}

    def open(self, key: str) -> Iterator[bytes]:
        self.asked += 1
        return super().open(key)

    def put(self, key: str, data: bytes) -> None:
        self.held[key] = data

    def get(self, key: str) -> bytes:
        return self.held[key]


def test_an_object_on_which_a_store_hangs_is_damaged_and_asked_for_once(api: TestClient, done: dict[str, Any]) -> None:
    store = HangingOnOne()
    app: Any = api.app
    parts = app.state.parts
    app.state.parts = replace(parts, reads=replace(parts.reads, blobs=store, damaged={}))
    threading.Timer(1, store.let_go.set).start()
    try:
        with ThreadPoolExecutor(42) as pool:
            answers = list(pool.map(lambda _: api.get(done["links"]["result"]), range(42)))
    finally:
        app.state.parts = parts
    assert {one.json()["type"].rpartition("/")[2] for one in answers} == {"damaged"}
    assert {(one.status_code, one.json()["retryable"]) for one in answers} == {(500, False)}
    assert store.asked == 1


def test_an_outage_of_the_store_is_no_damage_and_leaves_the_other_routes_fast(
    api: TestClient, done: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Hanging()
    monkeypatch.setattr(reads, "TURN_TIMEOUT_S", 1.0)
    app: Any = api.app
    parts = app.state.parts
    app.state.parts = replace(parts, reads=replace(parts.reads, blobs=store))
    try:
        with ThreadPoolExecutor(42) as pool:
            waiting = [pool.submit(api.get, done["links"]["result"]) for _ in range(42)]
            time.sleep(0.5)
            started = time.monotonic()
            for path in ("/v1/jobs", done["links"]["self"], "/health/live"):
                assert api.get(path).status_code == 200
            assert time.monotonic() - started < 2
            # All but those that are being read have been answered.
            assert eventually(lambda: sum(one.done() for one in waiting) >= 42 - reads.READERS, 10)
            store.let_go.set()
            answers = [one.result() for one in waiting]
    finally:
        store.let_go.set()
        app.state.parts = parts
    assert {(one.status_code, one.json()["retryable"]) for one in answers} == {(503, True)}
    assert api.get(done["links"]["result"]).status_code == 200


def test_a_store_that_takes_a_call_and_says_nothing_is_given_up_within_seconds(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        about = {"s3_endpoint": f"http://127.0.0.1:{port}", "s3_access_key": "a", "s3_secret_key": "b"}
        store = open_blobs(settings.model_copy(update={**about, "blob_url": "s3://omni"}), SHORT)
        started = time.monotonic()
        with pytest.raises(Unavailable):
            store.get("key")
        assert time.monotonic() - started < 15


def test_the_schema_is_one(api: TestClient) -> None:
    answer = api.get("/v1/schema")
    assert answer.headers["content-type"] == "application/schema+json"
    jsonschema_rs.Draft202012Validator(answer.json())
