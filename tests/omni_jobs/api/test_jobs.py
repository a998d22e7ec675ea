"""Jobs over HTTP."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

from omni_jobs.blobs import BlobStore
from omni_jobs.errors import ErrorType, Problem
from omni_jobs.job import Pool
from omni_jobs.store import attempts, claims, jobs, submissions, tenants, workers
from omni_jobs.store.database import new_id

pytestmark = pytest.mark.servers
Job = dict[str, Any]


def upload(api: TestClient, data: bytes = b"RIFF", name: str = "talk.wav", request: Any = None, **more: Any) -> Any:
    fields = {} if request is None else {"request": json.dumps(request)}
    return api.post("/v1/jobs", files={"file": (name, data)}, data=fields, **more)


def objects(blobs: BlobStore) -> set[str]:
    return {one.key for one in blobs.list("")}


def test_an_upload_becomes_a_queued_job_with_its_bytes_kept(api: TestClient, blobs: BlobStore) -> None:
    request = {"task": "transcribe", "options": {"language": "de"}, "metadata": {"case": [1, "ä"]}}
    answer = upload(api, b"RIFF" * 1000, "C:\\music\\../../etc/talk.wav", request)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["phase"], job["name"], job["task"]) == ("queued", "prepare", "talk.wav", ["transcribe"])
    assert job["metadata"] == {"case": [1, "ä"]} and job["options"]["language"] == "de"
    source = job["sources"][0]
    assert source["size_bytes"] == 4000 and source["sha256"] == hashlib.sha256(b"RIFF" * 1000).hexdigest()
    assert blobs.get(f"default/{job['id']}/source/0") == b"RIFF" * 1000
    assert job["progress"]["units_total"] == 1 and job["progress"]["fraction"] == 0 and job["formats"] == []
    assert job["created_at"].endswith("Z") and job["finished_at"] is None


def test_the_request_may_come_before_or_after_the_file(api: TestClient) -> None:
    for order in (("request", "file"), ("file", "request")):
        parts = {"request": (None, b'{"name": "other.mp4"}'), "file": ("talk.wav", b"bytes")}
        answer = api.post("/v1/jobs", files=[(name, parts[name]) for name in order])
        assert answer.status_code == 202 and answer.json()["name"] == "other.mp4"


def test_an_empty_file_and_one_longer_than_the_queue_arrive_whole(api: TestClient) -> None:
    assert upload(api, b"").json()["sources"][0]["size_bytes"] == 0
    data = bytes(range(256)) * (4 << 12)
    assert upload(api, data).json()["sources"][0]["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("parts", "status", "pointer"),
    [
        ([("request", (None, b'{"task": "sing"}')), ("file", ("a", b"x"))], 422, "/task"),
        ([("request", (None, b'{"optoins": {}}')), ("file", ("a", b"x"))], 422, "/optoins"),
        ([("file", ("a", b"x")), ("request", (None, b'{"options": {"dpi": 9}}'))], 422, "/options/dpi"),
        ([("file", ("a", b"x")), ("request", (None, b"{"))], 400, None),
        ([("file", ("a", b"x")), ("request", (None, b"{}")), ("request", (None, b"{}"))], 422, "/request"),
        ([("file", ("a", b"x")), ("file", ("b", b"y"))], 422, "/file"),
        ([("file", ("a", b"x")), ("color", (None, b"red"))], 422, "/color"),
        ([("file", ("a", b"x")), ("attach", (None, b"maybe"))], 422, "/attach"),
        ([("request", (None, b"{}"))], 422, "/file"),
    ],
)
def test_a_faulty_form_is_refused_and_leaves_nothing(
    api: TestClient, blobs: BlobStore, parts: Any, status: int, pointer: str | None
) -> None:
    before = objects(blobs)
    answer = api.post("/v1/jobs", files=parts)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    if pointer is not None:
        assert answer.json()["errors"][0]["pointer"].startswith(pointer)
    assert objects(blobs) == before


@pytest.mark.parametrize("cut", [0, 40, 200, 1500])
def test_a_body_that_ends_early_leaves_nothing(api: TestClient, blobs: BlobStore, cut: int) -> None:
    body = b'--B\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(2000) + b"\r\n--B--\r\n"
    before = objects(blobs)
    answer = api.post("/v1/jobs", content=body[:cut], headers={"content-type": "multipart/form-data; boundary=B"})
    assert answer.status_code == 400 and objects(blobs) == before


def test_a_file_that_is_too_large_leaves_nothing(api: TestClient, blobs: BlobStore) -> None:
    before = objects(blobs)
    assert upload(api, bytes((4 << 20) + 1)).status_code == 413
    assert upload(api, bytes(8 << 20)).status_code == 413
    assert upload(api, bytes(4 << 20)).status_code == 202
    assert len(objects(blobs) - before) == 1


def test_a_uri_becomes_a_job_without_being_read(api: TestClient, roots: Path) -> None:
    (roots / "a b.pdf").write_bytes(b"%PDF")
    for uri in ("s3://media/in/a%20b.pdf", (roots / "a b.pdf").as_uri()):
        answer = api.post("/v1/jobs", json={"uri": uri, "password": "hush"})
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert (job["name"], job["sources"][0]["uri"], job["sources"][0]["sha256"]) == ("a b.pdf", uri, None)
        assert "hush" not in answer.text + api.get(job["links"]["self"]).text + api.get(job["links"]["events"]).text


@pytest.mark.parametrize("uri", ["http://example.org/a.mp4", "https://example.org/a.mp4", "ftp://x/a", "a.mp4"])
def test_a_scheme_that_is_not_taken_says_so(api: TestClient, uri: str) -> None:
    problem = api.post("/v1/jobs", json={"uri": uri}).json()
    assert problem["status"] == 422 and problem["type"] == "https://omni-jobs.dev/problems/unsupported"
    assert problem["errors"][0]["pointer"] == "/uri" and problem["retryable"] is False


def test_bodies_that_are_no_submission_are_told_apart(api: TestClient) -> None:
    def post(content: bytes, media_type: str = "application/json") -> int:
        return api.post("/v1/jobs", content=content, headers={"content-type": media_type}).status_code

    assert post(b"{") == 400 and post(b'{"uri": NaN}') == 400 and post(b"\xff") == 400 and post(b"[" * 99999) == 400
    assert post(b"[]") == 422 and post(b"{}") == 422 and post(b'{"uri": "s3://media/a", "tenant": "x"}') == 422
    assert post(b"hi", "text/plain") == 415 and post(b"x", "multipart/form-data") == 400
    assert post(b" " * (2 << 20)) == 413


def test_text_that_no_database_keeps_is_no_server_error(api: TestClient) -> None:
    odd = b'{"uri": "s3://media/\\ud800\\u0000a"}'
    headers = {"content-type": "application/json"}
    assert api.post("/v1/jobs", content=odd, headers=headers).status_code == 422
    for field in (b'"name": "\\ud800"', b'"password": "\\ud800"'):
        answer = api.post("/v1/jobs", content=b'{"uri": "s3://media/a", ' + field + b"}", headers=headers)
        assert answer.status_code == 422
    odd = b'{"uri": "s3://media/a", "name": "\\u0000b"}'
    answer = api.post("/v1/jobs", content=odd, headers={**headers, "Idempotency-Key": new_id()})
    assert answer.status_code == 202 and answer.json()["name"] == "b"
    odd = b'{"uri": "s3://media/a", "\\ud800": 1}'
    assert api.post("/v1/jobs", content=odd, headers=headers).status_code == 422


@pytest.mark.parametrize(
    ("metadata", "pointer"),
    [
        ('{"a": ["\\u0000"]}', "/metadata/a/0"),
        ('{"a": {"b~/": "\\ud800"}}', "/metadata/a/b~0~1"),
        ('{"a": {"\\u0000": 1}}', "/metadata/a"),
        ('{"\\udfff": 1}', "/metadata"),
        ('{"a": 1e400}', "/metadata/a"),
        ('{"a": [0, -1e999]}', "/metadata/a/1"),
    ],
)
def test_metadata_that_could_not_be_kept_as_it_is_is_refused(api: TestClient, metadata: str, pointer: str) -> None:
    body = f'{{"uri": "s3://media/a", "metadata": {metadata}}}'.encode()
    answer = api.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer


def nested(depth: int) -> str:
    return '{"a": ' * (depth - 1) + "{}" + "}" * (depth - 1)


@pytest.mark.parametrize("depth", [33, 41, 260, 5000, 60_000])
def test_metadata_that_is_nested_too_deep_is_refused_and_the_list_goes_on(api: TestClient, depth: int) -> None:
    body = f'{{"name": "a[{{b", "uri": "s3://media/a", "metadata": {nested(depth)}}}'
    answer = api.post("/v1/jobs", content=body.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 422 and answer.json()["errors"][0]["pointer"] == "/metadata", answer.text
    answer = api.post("/v1/jobs", files={"request": (None, body.encode()), "file": ("a", b"x")})
    assert answer.status_code == 422
    assert api.get("/v1/jobs").status_code == 200


def test_metadata_comes_back_as_it_was_given(api: TestClient) -> None:
    metadata = {"a": json.loads(nested(31)), "text": '[[{{"\\', "n": [1e10, -0.5, None, True], "": {"ä\n": "𝄞"}}
    answer = api.post("/v1/jobs", json={"uri": "s3://media/a", "metadata": metadata})
    assert answer.status_code == 202, answer.text
    assert api.get(answer.json()["links"]["self"]).json()["metadata"] == metadata


def test_a_number_without_an_end_is_no_option(api: TestClient) -> None:
    for name in ("start_s", "end_s"):
        body = f'{{"uri": "s3://media/a", "options": {{"{name}": 1e400}}}}'.encode()
        answer = api.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422 and answer.json()["errors"][0]["pointer"] == f"/options/{name}"


def test_the_same_idempotency_key_gives_the_same_job_once(api: TestClient, blobs: BlobStore) -> None:
    headers = {"Idempotency-Key": new_id()}
    first = upload(api, b"same", request={"metadata": {"a": 1}}, headers=headers)
    before = objects(blobs)
    again = upload(api, b"same", request={"metadata": {"a": 1}}, headers=headers)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["id"] == first.json()["id"] and again.headers["idempotent-replay"] == "true"
    for other in (upload(api, b"other", request={"metadata": {"a": 1}}, headers=headers),
                  upload(api, b"same", headers=headers)):  # fmt: skip
        assert other.status_code == 422 and other.json()["type"].endswith("/conflict")
    assert objects(blobs) == before


def test_one_idempotency_key_from_many_at_once_makes_one_job(api: TestClient) -> None:
    headers = {"Idempotency-Key": new_id()}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: upload(api, b"at once", headers=headers), range(8)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]


def test_attach_goes_on_with_an_open_job_of_the_same_bytes_name_and_options(api: TestClient) -> None:
    first = upload(api, b"attached", "x.wav").json()
    attached = upload(api, b"attached", "x.wav", params={"attach": "true"})
    assert (attached.status_code, attached.json()["id"]) == (200, first["id"])
    assert upload(api, b"attached", "x.wav", request={"attach": True}).json()["id"] == first["id"]
    for other in (
        upload(api, b"attached", "x.wav"),
        upload(api, b"attached", "y.wav", params={"attach": "true"}),
        upload(api, b"attache", "x.wav", params={"attach": "true"}),
        upload(api, b"attached", "x.wav", request={"task": "transcribe"}, params={"attach": "true"}),
        upload(api, b"attached", "x.wav", request={"password": "p"}, params={"attach": "true"}),
    ):
        assert other.status_code == 202 and other.json()["id"] != first["id"]


def test_the_same_command_many_times_at_once_makes_one_job(api: TestClient, blobs: BlobStore) -> None:
    before = objects(blobs)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: upload(api, b"both", "b.wav", params={"attach": "true"}), range(8)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert not any("idempotent-replay" in answer.headers for answer in answers)
    assert len(objects(blobs) - before) == 1


def test_priority_and_deadline_reach_the_units(api: TestClient, db: Engine) -> None:
    asked = {"uri": "s3://media/a", "priority": 7, "deadline": "2030-01-31T18:00:00+01:00"}
    job = api.post("/v1/jobs", json=asked).json()
    assert (job["priority"], job["deadline"]) == (7, "2030-01-31T17:00:00Z")
    assert api.post("/v1/jobs", json={"uri": "s3://media/b"}).json()["deadline"] is None
    with db.connect() as tx:
        found = tx.execute(
            text("select priority, due_at = '2030-01-31T17:00:00Z' from omni.units where job_id = :id"),
            {"id": job["id"]},
        ).one()
    assert tuple(found) == (7, True)
    for name, value in (
        ("priority", 101), ("priority", -101), ("deadline", "2030-01-31T18:00:00"), ("deadline", "tomorrow"),
        ("deadline", 1893456000), ("deadline", "1893456000"),
    ):  # fmt: skip
        answer = api.post("/v1/jobs", json={"uri": "s3://media/a", name: value})
        assert answer.status_code == 422 and answer.json()["errors"][0]["pointer"] == f"/{name}"


@pytest.fixture
def full(db: Engine) -> Iterator[None]:
    """As many jobs are open as may be."""
    tenants.update(db, "default", max_open_jobs=1)
    yield
    with db.begin() as tx:
        tx.execute(text("update omni.tenants set max_open_jobs = null"))


def test_with_too_many_open_jobs_a_submission_is_told_when_to_come_again(
    api: TestClient, full: None, blobs: BlobStore
) -> None:
    del full
    before = objects(blobs)
    for answer in (api.post("/v1/jobs", json={"uri": "s3://media/a"}), upload(api)):
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
        problem = answer.json()
        assert problem["type"].endswith("/too_many") and problem["retryable"] is True
    assert objects(blobs) == before


def test_an_upload_is_refused_before_its_bytes_are_read(api: TestClient, full: None) -> None:
    del full
    read = 0

    def body() -> Iterator[bytes]:
        nonlocal read
        yield b'--B\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(50):
            read += 1
            yield bytes(1 << 16)
        yield b"\r\n--B--\r\n"

    sent = Mock(side_effect=lambda *_: pytest.fail("its bytes were taken in"))
    app: Any = api.app
    parts = app.state.parts
    app.state.parts = replace(parts, intake=Mock(wraps=parts.intake, keep=sent))
    try:
        answer = api.post("/v1/jobs", content=body(), headers={"content-type": "multipart/form-data; boundary=B"})
    finally:
        app.state.parts = parts
    assert answer.status_code == 429 and not sent.called


def test_a_replay_needs_no_room(api: TestClient, db: Engine) -> None:
    headers = {"Idempotency-Key": new_id()}
    first = upload(api, b"replayed", headers=headers).json()
    tenants.update(db, "default", max_open_jobs=1)
    try:
        again = upload(api, b"replayed", headers=headers)
        assert (again.status_code, again.json()["id"]) == (200, first["id"])
    finally:
        with db.begin() as tx:
            tx.execute(text("update omni.tenants set max_open_jobs = null"))


@pytest.fixture
def broken_job(api: TestClient, db: Engine) -> str:
    """A job that failed because its unit died."""
    job_id = upload(api, name="broken.wav").json()["id"]
    worker = workers.register(db, pool="cpu", host="h", pid=1, pid_started=1, version="t", backend=None)
    for unit in claims.claim(db, worker, Pool.CPU, 1000):
        if unit.job_id == job_id:
            attempts.fail(db, unit, Problem(ErrorType.INTERNAL, "it broke"))
        else:
            attempts.release(db, unit)
    assert api.get(f"/v1/jobs/{job_id}").json()["state"] == "failed"
    return job_id


def test_what_died_is_listed_and_tried_again(api: TestClient, db: Engine, broken_job: str) -> None:
    (unit,) = [one for one in api.get("/v1/dead").json()["units"] if one["job_id"] == broken_job]
    assert (unit["job_name"], unit["kind"], unit["failed"]) == ("broken.wav", "prepare", 1)
    assert unit["error"]["message"] == "it broke"
    assert len(api.get("/v1/dead", params={"limit": 1}).json()["units"]) == 1
    assert api.get("/v1/dead", params={"limit": 0}).status_code == 422
    again = api.post(f"/v1/jobs/{broken_job}/retry", json={"password": "hush"})
    assert again.status_code == 202 and "hush" not in again.text, again.text
    assert (again.json()["state"], again.json()["revision"]) == ("running", 2)
    with db.connect() as tx:
        secret = tx.execute(text("select secret from omni.jobs where job_id = :id"), {"id": broken_job}).scalar()
    assert secret == {"password": "hush"}
    refused = api.post(f"/v1/jobs/{broken_job}/retry")
    assert refused.status_code == 409
    for body, status in ((b"{", 400), (b'{"pasword": "x"}', 422), (b"[]", 422)):
        assert api.post(f"/v1/jobs/{broken_job}/retry", content=body).status_code == status


def test_a_job_is_deleted_with_its_units_whatever_its_state(api: TestClient, broken_job: str) -> None:
    for job_id in (broken_job, upload(api).json()["id"]):
        answer = api.delete(f"/v1/jobs/{job_id}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert api.get(f"/v1/jobs/{job_id}").status_code == 404
        assert api.delete(f"/v1/jobs/{job_id}").status_code == 404
    assert broken_job not in {one["job_id"] for one in api.get("/v1/dead").json()["units"]}


def test_a_job_is_looked_at_by_version(api: TestClient, db: Engine) -> None:
    job = upload(api).json()
    answer = api.get(job["links"]["self"])
    etag = answer.headers["etag"]
    assert answer.headers["retry-after"] == "1"
    same = api.get(job["links"]["self"], headers={"If-None-Match": etag})
    assert same.status_code == 304 and same.headers["etag"] == etag and not same.content
    jobs.cancel(db, "default", job["id"])
    changed = api.get(job["links"]["self"], headers={"If-None-Match": etag})
    assert changed.status_code == 200 and changed.json()["state"] == "cancelled"
    assert "retry-after" not in changed.headers


def test_wait_answers_when_the_job_changes(api: TestClient, db: Engine) -> None:
    job = upload(api).json()
    etag = api.get(job["links"]["self"]).headers["etag"]
    started = time.monotonic()
    unchanged = api.get(job["links"]["self"], params={"wait": 0.5}, headers={"If-None-Match": etag})
    assert unchanged.status_code == 304 and 0.4 < time.monotonic() - started < 3
    threading.Timer(0.4, jobs.cancel, (db, "default", job["id"])).start()
    started = time.monotonic()
    assert api.get(job["links"]["self"], params={"wait": 20}).json()["state"] == "cancelled"
    assert time.monotonic() - started < 5
    # What happened before the call is not missed, and what has ended is not waited for.
    assert api.get(job["links"]["self"], params={"wait": 20}, headers={"If-None-Match": etag}).status_code == 200
    assert api.get(job["links"]["self"], params={"wait": 20}).status_code == 200
    assert time.monotonic() - started < 6


def test_wait_sees_a_unit_advance(api: TestClient, db: Engine) -> None:
    job = upload(api).json()
    worker = workers.register(db, pool="cpu", host="h", pid=1, pid_started=1, version="t", backend=None)
    claimed = claims.claim(db, worker, Pool.CPU, 1000)
    unit = next(one for one in claimed if one.job_id == job["id"])
    etag = api.get(job["links"]["self"]).headers["etag"]
    workers.beat(db, worker, {unit.unit_id: (unit.generation, 0.5)}, {})
    changed = api.get(job["links"]["self"], params={"wait": 20}, headers={"If-None-Match": etag})
    assert changed.status_code == 200 and changed.json()["state"] == "running"
    for one in claimed:
        attempts.release(db, one)


@pytest.mark.parametrize("verb", ["get", "events", "result", "cancel"])
def test_a_job_that_is_not_there_is_not_found(api: TestClient, verb: str) -> None:
    for job_id in (new_id(), "nonsense", "1"):
        path = f"/v1/jobs/{job_id}" + ("" if verb == "get" else f"/{verb}")
        answer = api.request("POST" if verb == "cancel" else "GET", path)
        assert answer.status_code == 404 and answer.json()["instance"] == path


def test_jobs_of_another_tenant_are_not_found(api: TestClient, db: Engine) -> None:
    source = submissions.NewSource("upload:a", "a", "k", "0" * 64, 1)
    job_id, _ = submissions.insert(db, submissions.NewJob("other", (source,), {}))
    assert api.get(f"/v1/jobs/{job_id}").status_code == 404
    assert api.post(f"/v1/jobs/{job_id}/cancel").status_code == 404
    assert api.post(f"/v1/jobs/{job_id}/retry").status_code == 404
    assert api.delete(f"/v1/jobs/{job_id}").status_code == 404
    assert api.get(f"/v1/jobs/{job_id}/events").status_code == 404
    assert job_id not in {job["id"] for job in api.get("/v1/jobs", params={"limit": 200}).json()["jobs"]}


def test_pages_of_jobs_are_whole_and_newest_first(api: TestClient) -> None:
    made = [upload(api, name=f"page{n}.wav").json()["id"] for n in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    while len(seen) < 5:
        page = api.get("/v1/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next"]
        assert cursor == seen[-1]
    assert seen == made[:0:-1]
    for state, found in (("queued", set(made)), ("failed", set())):
        listed = api.get("/v1/jobs", params={"state": state, "limit": 200}).json()["jobs"]
        assert {job["id"] for job in listed} & set(made) == found and {job["state"] for job in listed} <= {state}
    last = api.get("/v1/jobs", params={"limit": 200}).json()
    assert last["next"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "cursor=x", "state=odd"])
def test_a_faulty_query_is_pointed_at(api: TestClient, query: str) -> None:
    answer = api.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422 and answer.json()["errors"][0]["pointer"] == f"/query/{query.partition('=')[0]}"


def test_a_cancelled_job_may_be_cancelled_again_and_a_finished_one_may_not(
    api: TestClient, finish_job: Callable[[str], None]
) -> None:
    job = upload(api).json()
    first, again = (api.post(job["links"]["cancel"]) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["state"] == again.json()["state"] == "cancelled"
    done = upload(api).json()
    finish_job(done["id"])
    refused = api.post(done["links"]["cancel"])
    assert refused.status_code == 409 and refused.json()["type"].endswith("/conflict")


def test_events_are_numbered_without_a_hole(api: TestClient, finish_job: Callable[[str], None]) -> None:
    job = upload(api).json()
    finish_job(job["id"])
    events = api.get(job["links"]["events"]).json()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"]) == ("job.queued", "job.succeeded")
    later = api.get(job["links"]["events"], params={"after": 2}).json()
    assert later == events[2:]


def test_a_finished_job_shows_that_it_is_whole(api: TestClient, finish_job: Callable[[str], None]) -> None:
    job = upload(api, request={"options": {"summary": True}}).json()
    finish_job(job["id"])
    done = api.get(job["links"]["self"]).json()
    assert done["state"] == "succeeded" and done["formats"] == ["json", "srt", "txt", "manifest"]
    progress = done["progress"]
    assert progress["fraction"] == 1 and progress["eta_s"] is None
    assert progress["media_s_done"] == progress["media_s_total"] == 10


@pytest.fixture
def lame(db: Engine) -> Iterator[None]:
    """A database in which jobs cannot be inserted."""
    with db.begin() as tx:
        tx.execute(text("alter table omni.jobs add constraint lame check (name <> 'lame.wav') not valid"))
    yield
    with db.begin() as tx:
        tx.execute(text("alter table omni.jobs drop constraint lame"))


@pytest.mark.usefixtures("lame")
def test_an_insert_that_fails_leaves_no_bytes_and_says_nothing_of_the_inside(api: TestClient, blobs: BlobStore) -> None:
    before = objects(blobs)
    answer = upload(api, name="lame.wav")
    assert answer.status_code == 500 and "lame" not in answer.text and "omni." not in answer.text
    assert objects(blobs) == before
