"""Door, problems, health, description: what surrounds the routes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text
from starlette.datastructures import URL
from starlette.requests import HTTPConnection

from omni_jobs.api.app import create_app
from omni_jobs.api.schemas import Problem
from omni_jobs.errors import Refused
from omni_jobs.settings import Settings

pytestmark = pytest.mark.servers
KEYLESS = {"X-Api-Key": ""}


def test_without_the_key_nobody_comes_in(api: TestClient, settings: Settings) -> None:
    for headers in (
        KEYLESS,
        {"X-Api-Key": "wrong"},
        {"X-Api-Key": "ä".encode()},
        {"X-Api-Key": "", "Authorization": "Bearer wrong"},
        {"X-Api-Key": "", "Authorization": f"Basic {settings.api_key}"},
    ):
        for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/v1/nothing")):
            answer = api.request(method, path, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert Problem.model_validate(answer.json()).type.endswith("/unauthorized")
    bearer = {"X-Api-Key": "", "Authorization": f"bearer {settings.api_key}"}
    assert api.get("/v1/jobs", headers=bearer).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "evil.example:80", "[::2]:80", ""])
def test_another_host_is_not_us(api: TestClient, host: str) -> None:
    answer = api.get("/v1/jobs", headers={"Host": host})
    assert answer.status_code == 421 and answer.json()["type"].endswith("/misdirected")
    assert api.get("/docs", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.:81", "127.0.0.1:8000", "[::1]:80"])
def test_our_hosts_are_us_whatever_the_port(api: TestClient, host: str) -> None:
    assert api.get("/v1/jobs", headers={"Host": host}).status_code == 200


def test_the_path_that_is_guarded_is_the_one_that_is_routed(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    # The URL is built with what the caller says our name is: `Host: localhost/docs?` once made it one without a key.
    def url(_: HTTPConnection) -> URL:
        return URL("http://localhost/docs?/v1/jobs")

    monkeypatch.setattr(HTTPConnection, "url", property(url))
    answer = api.get("/v1/jobs", headers=KEYLESS)
    assert answer.status_code == 401 and answer.json()["instance"] == "/v1/jobs"


def test_a_page_of_another_site_cannot_submit(api: TestClient) -> None:
    files = {"file": ("a.wav", b"x")}
    assert api.post("/v1/jobs", files=files, headers={"Origin": "https://evil.example"}).status_code == 421
    assert api.post("/v1/jobs", files=files, headers={"Origin": "null"}).status_code == 421
    assert api.post("/v1/jobs", files=files, headers={"Origin": "http://["}).status_code == 421
    assert api.post("/v1/jobs", files=files, headers={"Origin": "http://localhost:3000"}).status_code == 202


def test_every_refusal_is_a_problem(api: TestClient) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404), ("PUT", "/v1/jobs", 405), ("DELETE", "/v1/schema", 405),
        ("GET", "/v1/jobs?limit=x", 422), ("POST", "/v1/jobs", 415),
    ):  # fmt: skip
        answer = api.request(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        found = Problem.model_validate(answer.json())
        assert (found.status, found.instance) == (status, path.partition("?")[0]) and found.title and found.detail
    assert api.put("/v1/jobs").headers["allow"]


def test_health_needs_no_key_and_a_missing_broker_only_degrades(api: TestClient) -> None:
    headers = {**KEYLESS, "Host": "10.0.0.7"}
    assert api.get("/health/live", headers=headers).json() == {"status": "alive"}
    ready = api.get("/health/ready", headers=headers)
    assert ready.status_code == 200 and ready.json()["status"] == "degraded"
    assert (ready.json()["parts"]["database"], ready.json()["parts"]["blobs"]) == ("ok", "ok")


def test_without_the_database_it_says_so_and_asks_to_come_again(settings: Settings) -> None:
    app = create_app(settings)
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:
        parts = app.state.parts
        parts.db.dispose()
        broken = create_engine_elsewhere(parts.db)
        app.state.parts = replace(parts, db=broken)
        answer = client.get("/v1/jobs", headers={"X-Api-Key": settings.api_key})
        assert answer.status_code == 503 and answer.headers["retry-after"] and answer.json()["retryable"] is True
        assert "5432" not in answer.text
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
        app.state.parts = parts


def create_engine_elsewhere(db: Engine) -> Engine:
    from omni_jobs.store import open_database

    return open_database(str(db.url.set(port=1).render_as_string(hide_password=False)))


def test_it_does_not_start_on_an_older_schema(settings: Settings, db: Engine) -> None:
    with db.begin() as tx:
        have = tx.execute(text("select version_num from omni.schema_version")).scalar()
        tx.execute(text("delete from omni.schema_version"))
    try:
        with pytest.raises(Refused, match="omni-jobs migrate"), TestClient(create_app(settings)):
            pass
        ended = start(settings)
        assert ended.returncode == 1 and "omni-jobs migrate" in ended.stderr and "Traceback" not in ended.stderr
    finally:
        with db.begin() as tx:
            tx.execute(text("insert into omni.schema_version values (:have)"), {"have": have})


def test_it_does_not_open_a_port_to_others_without_a_key(settings: Settings) -> None:
    ended = start(settings, OMNI_API_HOST="0.0.0.0", OMNI_API_KEY="")
    assert ended.returncode == 1 and "OMNI_API_KEY" in ended.stderr and "Traceback" not in ended.stderr


def start(settings: Settings, **more: str) -> "subprocess.CompletedProcess[str]":
    environment = {
        "PATH": "/usr/bin:/bin", "OMNI_HOME": str(settings.home), "OMNI_DATABASE_URL": settings.database_url,
        "OMNI_BLOB_URL": settings.blob_url, "OMNI_BROKER_URL": settings.broker_url, "OMNI_API_KEY": settings.api_key,
        **more,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "omni_jobs.api"], env=environment, capture_output=True, text=True, timeout=60
    )


def test_the_description_is_complete(api: TestClient) -> None:
    document = api.get("/openapi.json", headers=KEYLESS).json()
    assert document["openapi"].startswith("3.1")
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        jsonschema_rs.Draft202012Validator({**document["components"]["schemas"][reference], **rest(document)})
    create = document["paths"]["/v1/jobs"]["post"]
    assert set(create["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    for status in ("400", "401", "413", "415", "421", "422", "429", "503"):
        assert list(create["responses"][status]["content"]) == ["application/problem+json"]
    assert api.get("/docs", headers=KEYLESS).status_code == 200


def rest(document: dict[str, Any]) -> dict[str, Any]:
    return {"components": document["components"]}


def test_a_key_file_is_the_key(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from the file\n")
    mine = settings.model_copy(update={"api_key": "", "home": tmp_path})
    with TestClient(create_app(mine), "http://localhost") as client:
        assert client.get("/v1/jobs").status_code == 401
        assert client.get("/v1/jobs", headers={"X-Api-Key": "from the file"}).status_code == 200
    keyless = settings.model_copy(update={"api_key": "", "home": tmp_path / "none"})
    with TestClient(create_app(keyless), "http://localhost") as client:
        assert client.get("/v1/jobs").status_code == 200
