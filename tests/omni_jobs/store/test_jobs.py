"""Jobs as users end them: limits, replay, deletion, retention."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text

from omni_jobs.errors import Conflict, ErrorType, NotFound, Problem, TooMany
from omni_jobs.job import Pool, UnitKind
from omni_jobs.store import attempts, claims, jobs, objects, results, submissions, tenants, units
from omni_jobs.store.attempts import Fenced
from omni_jobs.store.submissions import NewJob, NewSource
from omni_jobs.store.units import NewUnit

pytestmark = pytest.mark.servers
DEAD = Problem(ErrorType.UNREADABLE, "a bad page")


def value(db: Engine, sql: str, **params: Any) -> Any:
    with db.connect() as tx:
        return tx.execute(text(sql), params).scalar()


def work(db: Engine, worker: str, *, bad: int | None = None, pages: int = 3) -> None:
    """Everything that can be claimed, to its end; page `bad` cannot be answered."""
    while taken := [unit for pool in Pool for unit in claims.claim(db, worker, pool, 50)]:
        for unit in taken:
            if unit.kind is UnitKind.PREPARE:
                follow = [
                    NewUnit(UnitKind.PAGE, unit.source_id, n, {"page": n}, reuse_key=f"{unit.job_id}/{n}")
                    for n in range(pages)
                ]
                attempts.finish(db, unit, {}, follow=follow)
            elif unit.kind is UnitKind.PAGE and unit.position == bad:
                attempts.fail(db, unit, DEAD)
            elif unit.kind is UnitKind.DELIVER:
                said = {"generation": unit.generation, "prefix": unit.prefix, "answered_by": {}}
                attempts.finish(
                    db,
                    unit,
                    {},
                    also=lambda _, job, said=said: results.commit(job, artifacts=[], content={}, **said),
                )
            else:
                attempts.finish(db, unit, {"blocks": unit.revision})


def test_a_retry_does_only_what_was_missing_and_keeps_the_old_result(
    db: Engine, make_job: Callable[..., str], make_worker: Any
) -> None:
    job, worker = make_job(), make_worker()
    work(db, worker, bad=1)
    assert jobs.get(db, "acme", job)["state"] == "partial"
    (dead,) = units.dead(db, "acme")
    assert (dead["kind"], dead["position"], dead["failed"], dead["error"]["message"]) == ("page", 1, 1, "a bad page")
    assert jobs.retry(db, "acme", job) == 2
    found = jobs.get(db, "acme", job)
    assert (found["state"], found["revision"], found["result_revision"]) == ("running", 2, 1)
    work(db, worker)
    found = jobs.get(db, "acme", job)
    assert (found["state"], found["result_revision"], found["finished_at"] is not None) == ("succeeded", 2, True)
    asked = (
        "select count(*) from omni.attempts a join omni.units u using (unit_id) where u.revision = 2 and u.kind = :k"
    )
    assert value(db, asked, k="page") == 1
    assert value(db, "select count(*) from omni.units where revision = 2 and kind = 'page' and state = 'done'") == 3
    assert units.dead(db, "acme") == []
    assert value(db, "select count(*) from omni.results where job_id = :j", j=job) == 2


def test_sources_that_lack_nothing_are_not_prepared_again(db: Engine, make_worker: Any) -> None:
    sources = (NewSource("upload:a", "a"), NewSource("upload:b", "b"))
    job, _ = submissions.insert(db, NewJob("acme", sources, {}))
    worker = make_worker()
    refused = Problem(ErrorType.ENCRYPTED, "a password is needed")
    for unit in claims.claim(db, worker, Pool.CPU, 5):
        if unit.position == 0:
            attempts.finish(db, unit, {}, follow=[NewUnit(UnitKind.PAGE, unit.source_id)])
        else:
            attempts.fail(db, unit, refused)
    work(db, worker)
    assert jobs.get(db, "acme", job)["state"] == "partial"
    jobs.retry(db, "acme", job, secret={"password": "x"})
    (unit,) = claims.claim(db, worker, Pool.CPU, 5)
    assert (unit.kind, unit.position, unit.secret) == (UnitKind.PREPARE, 1, {"password": "x"})
    attempts.release(db, unit)
    work(db, worker)
    assert jobs.get(db, "acme", job)["state"] == "succeeded"


def test_a_late_answer_of_the_revision_before_is_refused(db: Engine, make_job: Any, make_worker: Any) -> None:
    job, worker = make_job(), make_worker()
    (prepare,) = claims.claim(db, worker, Pool.CPU, 1)
    attempts.finish(db, prepare, {}, follow=[NewUnit(UnitKind.PAGE, prepare.source_id, n) for n in range(2)])
    good, bad = claims.claim(db, worker, Pool.GPU, 2)
    attempts.fail(db, bad, DEAD)
    with db.begin() as tx:  # as if its job had failed around it
        tx.execute(text("update omni.jobs set state = 'failed', finished_at = now()"))
    jobs.retry(db, "acme", job)
    with pytest.raises(Fenced):
        attempts.finish(db, good, {})
    assert value(db, "select count(*) from omni.units where revision = 1 and state = 'done' and kind = 'page'") == 0


def test_only_what_went_wrong_is_retried(db: Engine, make_job: Any, make_worker: Any) -> None:
    job = make_job()
    with pytest.raises(Conflict, match="queued"):
        jobs.retry(db, "acme", job)
    work(db, make_worker())
    with pytest.raises(Conflict, match="succeeded"):
        jobs.retry(db, "acme", job)
    with pytest.raises(NotFound):
        jobs.retry(db, "other", job)


def test_a_gap_fails_a_job_that_wants_none(db: Engine, make_job: Any, make_worker: Any) -> None:
    job = make_job(options={"on_gap": "fail"})
    work(db, make_worker(), bad=0)
    found = jobs.get(db, "acme", job)
    assert (found["state"], found["error"]["message"]) == ("failed", "a bad page")


def test_a_deleted_job_leaves_no_row_and_its_objects_to_the_collector(
    db: Engine, make_job: Any, make_worker: Any
) -> None:
    gone, kept, worker = make_job(), make_job(), make_worker()
    objects.reserve(db, prefix="acme/gone/source", tenant_id="acme", job_id=gone)
    work(db, worker, pages=1)
    with pytest.raises(NotFound):
        jobs.delete(db, "other", gone)
    jobs.delete(db, "acme", gone)
    with pytest.raises(NotFound):
        jobs.get(db, "acme", gone)
    tables = ["jobs", "sources", "units", "attempts", "events", "results", "artifacts", "segments", "coverage"]
    for table in tables:
        column = "unit_id::text like '%'" if table == "attempts" else "true"
        left = value(db, f"select count(*) from omni.{table} t where {column} and to_jsonb(t)->>'job_id' = :j", j=gone)
        assert left == 0, table
    prefixes = {one["prefix"] for one in objects.garbage(db)}
    assert "acme/gone/source" in prefixes and any(f"acme/{gone}/1/" in prefix for prefix in prefixes)
    assert not any(kept in prefix and "/media/" not in prefix for prefix in prefixes)
    assert jobs.get(db, "acme", kept)["state"] == "succeeded"


def test_deleting_an_open_job_stops_its_work(db: Engine, make_job: Any, make_worker: Any) -> None:
    job = make_job()
    (unit,) = claims.claim(db, make_worker(), Pool.CPU, 1)
    jobs.delete(db, "acme", job)
    from omni_jobs.store import workers

    assert workers.unwanted(db, [(unit.unit_id, unit.generation)]) == {(unit.unit_id, unit.generation)}
    with pytest.raises(Fenced, match="gone"):
        attempts.finish(db, unit, {})
    objects.condemn(db)
    assert unit.prefix in {one["prefix"] for one in objects.garbage(db)}


def test_old_jobs_expire_and_open_ones_do_not(db: Engine, make_job: Any, make_worker: Any) -> None:
    old = make_job()
    work(db, make_worker())
    new = make_job()
    with db.begin() as tx:
        tx.execute(text("update omni.jobs set finished_at = now() - interval '8 days' where job_id = :j"), {"j": old})
        tx.execute(text("update omni.jobs set created_at = now() - interval '9 days' where job_id = :j"), {"j": new})
    assert (jobs.expire(db, keep_days=7), jobs.expire(db, keep_days=7)) == (1, 0)
    assert value(db, "select array_agg(job_id::text) from omni.jobs") == [new]


def test_a_tenant_has_no_more_open_jobs_than_it_may(db: Engine, make_worker: Any) -> None:
    def submit(**more: Any) -> tuple[str, bool]:
        return submissions.insert(db, NewJob("acme", (NewSource("upload:a", "a"),), {}, **more), max_open=2)

    first, _ = submit(idempotency_key="k", request_digest="d")
    submit()
    with pytest.raises(TooMany, match="2 jobs of acme are open"):
        submit()
    assert submit(idempotency_key="k", request_digest="d") == (first, False)
    tenants.update(db, "acme", max_open_jobs=3)
    submit()
    with pytest.raises(TooMany):
        submit()
    work(db, make_worker())
    assert submit()[1]


def test_priority_and_due_time_order_the_work_of_a_tenant(db: Engine, make_worker: Any) -> None:
    from datetime import UTC, datetime, timedelta

    soon = datetime.now(UTC) + timedelta(minutes=5)
    plan = {
        "plain": {},
        "due": {"due_at": soon},
        "later": {"due_at": soon + timedelta(hours=1)},
        "first": {"priority": 5},
    }
    ids = {
        submissions.insert(db, NewJob("acme", (NewSource("u:a", name),), {}, **more))[0]: name
        for name, more in plan.items()
    }
    worker = make_worker()
    taken = [claims.claim(db, worker, Pool.CPU, 1)[0] for _ in plan]
    assert [ids[unit.job_id] for unit in taken] == ["first", "due", "later", "plain"]
