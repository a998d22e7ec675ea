"""Results over HTTP."""

import hashlib
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from omni_jobs.api.problems import NotTaken
from omni_jobs.api.results import by_accept
from omni_jobs.blobs import BlobStore
from omni_jobs.store import jobs

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
    assert problem["status"] == 404 and "cancelled" in problem["detail"]


def test_bytes_that_the_store_has_lost_are_said_to_be(api: TestClient, done: dict[str, Any], blobs: BlobStore) -> None:
    blobs.delete(f"default/{done['id']}/1/1/text.txt")
    answer = api.get(done["links"]["result"], params={"format": "txt"})
    assert answer.status_code == 503 and answer.headers["retry-after"]


def test_the_schema_is_one(api: TestClient) -> None:
    answer = api.get("/v1/schema")
    assert answer.headers["content-type"] == "application/schema+json"
    jsonschema_rs.Draft202012Validator(answer.json())
