"""What Prometheus reads."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine

from omni_jobs.store import tenants, workers

pytestmark = pytest.mark.servers


def scrape(api: TestClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = api.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(answer.text))
    assert all(family.documentation for family in families)
    samples = [sample for family in families for sample in family.samples]
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for one in samples}


def series(name: str, **labels: Any) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


def test_jobs_units_pools_and_workers_are_counted(api: TestClient, db: Engine) -> None:
    api.post("/v1/jobs", json={"uri": "s3://media/a.mp4"})
    about = {"host": "h", "pid": 1, "pid_started": 1, "version": "t", "backend": None}
    for seconds in (1.5, 2.0):
        worker = workers.register(db, pool="gpu", **about)  # type: ignore[arg-type]
        counted = {"wakes": 1, 'unit_seconds{kind="page"}': seconds, 'units{kind="page",outcome="succeeded"}': 3}
        workers.beat(db, worker, {}, counted)
    found = scrape(api)
    assert found[series("omni_jobs", state="queued")] == 1 and found[series("omni_jobs", state="failed")] == 0
    assert found[series("omni_units", pool="cpu", state="ready")] == 1
    assert found[series("omni_units", pool="gpu", state="dead")] == 0
    assert found[series("omni_ready_oldest_seconds", pool="cpu")] > 0
    assert found[series("omni_ready_oldest_seconds", pool="gpu")] == 0
    for name in ("omni_pool_paused", "omni_pool_ready_seconds", "omni_pool_ready_bytes"):
        assert found[series(name, pool="gpu")] == 0
    assert found[series("omni_workers_live", pool="gpu")] == 2
    assert found[series("omni_wakes_total")] == 2
    assert found[series("omni_unit_seconds_total", kind="page")] == 3.5
    assert found[series("omni_units_total", kind="page", outcome="succeeded")] == 6


def test_requests_are_counted_by_route_and_never_by_path(api: TestClient, db: Engine) -> None:
    for number in range(3):
        api.get(f"/v1/jobs/{number}")
        api.get(f"/nowhere/{number}")
    api.get("/v1/jobs", headers={"X-Api-Key": "wrong"})
    tenants.update(db, "default", max_open_jobs=1)
    api.post("/v1/jobs", json={"uri": "s3://media/a.mp4"})
    assert api.post("/v1/jobs", json={"uri": "s3://media/a.mp4"}).status_code == 429
    found = scrape(api)
    name = "omni_api_requests_total"
    assert found[series(name, method="GET", route="/v1/jobs/{job_id}", status="404")] == 3
    assert found[series(name, method="GET", route="other", status="404")] == 3
    assert found[series(name, method="GET", route="other", status="401")] == 1
    assert found[series("omni_api_too_many_total")] >= 1


def test_without_the_key_nothing_is_told(api: TestClient) -> None:
    assert api.get("/metrics", headers={"X-Api-Key": ""}).status_code == 401
