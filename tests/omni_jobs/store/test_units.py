"""The life of a unit on a real server: each test is one promise."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text

from omni_jobs.errors import ErrorType, Problem
from omni_jobs.job import Outcome, Pool, UnitKind
from omni_jobs.store import attempts, claims, events, jobs, reaper, results, workers
from omni_jobs.store.attempts import Fenced
from omni_jobs.store.claims import Claimed
from omni_jobs.store.units import NewUnit

pytestmark = pytest.mark.servers


def value(db: Engine, sql: str, **params: Any) -> Any:
    with db.connect() as tx:
        return tx.execute(text(sql), params).scalar()


def one(db: Engine, worker: str, pool: Pool, *, solo: bool = False) -> Claimed:
    (unit,) = claims.claim(db, worker, pool, 1, solo=solo)
    return unit


def deliver(db: Engine, worker: str, coverage: list[dict[str, Any]] = []) -> None:  # noqa: B006
    unit = one(db, worker, Pool.IO)
    with db.connect() as tx:
        source = tx.execute(text("select source_id from omni.sources where job_id = :j"), {"j": unit.job_id}).scalar()
    attempts.finish(
        db,
        unit,
        {},
        also=lambda _, job: results.commit(
            job,
            generation=unit.generation,
            prefix="p/",
            answered_by={},
            artifacts=[],
            content={str(source): {"coverage": coverage}},
        ),
    )


def test_a_job_goes_from_queued_to_succeeded(db: Engine, make_job: Callable[..., str], make_worker: Any) -> None:
    job, worker = make_job(), make_worker()
    prepare = one(db, worker, Pool.CPU)
    assert jobs.get(db, "acme", job)["state"] == "running"
    assert attempts.finish(db, prepare, {}, follow=[NewUnit(UnitKind.SPAN, prepare.source_id)]) == {Pool.GPU}
    assert attempts.finish(db, one(db, worker, Pool.GPU), {"text": "hi"}) == {Pool.IO}
    deliver(db, worker)
    found = jobs.get(db, "acme", job)
    assert (found["state"], found["result_revision"], found["progress"]["units_done"]) == ("succeeded", 1, 3)
    kinds = [event["type"] for event in events.since(db, job)]
    assert kinds[0] == "job.queued" and kinds[-1] == "job.succeeded"
    assert [event["seq"] for event in events.since(db, job)] == list(range(1, len(kinds) + 1))


def test_a_gap_makes_the_job_partial(db: Engine, make_job: Callable[..., str], make_worker: Any) -> None:
    job, worker = make_job(), make_worker()
    prepare = one(db, worker, Pool.CPU)
    attempts.finish(db, prepare, {}, follow=[NewUnit(UnitKind.SPAN, prepare.source_id)])
    attempts.finish(db, one(db, worker, Pool.GPU), {})
    gap = {"position": 0, "medium": "speech", "state": "failed", "reason": "x", "start_s": 0, "end_s": 1, "page": None}
    deliver(db, worker, [gap])
    assert jobs.get(db, "acme", job)["state"] == "partial"


def test_two_claimers_never_get_the_same_unit(db: Engine, make_job: Callable[..., str], make_worker: Any) -> None:
    for _ in range(60):
        make_job()
    crew = [make_worker() for _ in range(6)]

    def work(worker: str) -> list[str]:
        taken: list[str] = []
        while batch := claims.claim(db, worker, Pool.CPU, 3):
            taken += [unit.unit_id for unit in batch]
        return taken

    with ThreadPoolExecutor(6) as threads:
        taken = [unit for batch in threads.map(work, crew) for unit in batch]
    assert len(taken) == len(set(taken)) == 60


def test_an_answer_of_an_older_generation_is_refused(db: Engine, make_job: Any, make_worker: Any) -> None:
    make_job()
    zombie, worker = make_worker(), make_worker()
    old = one(db, zombie, Pool.CPU)
    workers.set_state(db, zombie, "gone")
    assert reaper.reap(db) == {Outcome.LOST: 1}
    new = one(db, worker, Pool.CPU)
    assert (new.unit_id, new.generation) == (old.unit_id, 2)
    with pytest.raises(Fenced):
        attempts.finish(db, old, {"from": "the grave"})
    attempts.finish(db, new, {"from": "the living"})
    assert value(db, "select answer->>'from' from omni.units where unit_id = :id", id=new.unit_id) == "the living"
    assert value(db, "select string_agg(outcome, ',' order by generation) from omni.attempts") == "lost,succeeded"


def test_the_same_finish_twice_is_one(db: Engine, make_job: Any, make_worker: Any) -> None:
    make_job()
    unit = one(db, make_worker(), Pool.CPU)
    follow = [NewUnit(UnitKind.SPAN, unit.source_id)]
    attempts.finish(db, unit, {"n": 1}, follow=follow)
    attempts.finish(db, unit, {"n": 1}, follow=follow)
    assert value(db, "select count(*) from omni.units where kind = 'span'") == 1
    with pytest.raises(Fenced):
        attempts.finish(db, unit, {"n": 2})


def test_the_third_loss_kills_a_unit_and_fails_its_job(db: Engine, make_job: Any, make_worker: Any) -> None:
    job = make_job()
    for lost in (1, 2, 3):
        worker = make_worker()
        with db.begin() as tx:
            tx.execute(text("update omni.units set ready_at = now()"))
        assert claims.quarantined(db, Pool.CPU) == (lost == 3)  # the last try is made with nothing beside it
        one(db, worker, Pool.CPU, solo=lost == 3)
        workers.set_state(db, worker, "gone")
        assert reaper.reap(db) == {Outcome.LOST: 1}
        assert value(db, "select lost from omni.units where kind = 'prepare'") == lost
    found = jobs.get(db, "acme", job)
    assert (found["state"], found["error"]["type"]) == ("failed", "crashed")


def test_a_failure_is_retried_with_a_delay_and_then_dies(db: Engine, make_job: Any, make_worker: Any) -> None:
    job, worker = make_job(), make_worker()
    problem = Problem(ErrorType.INTERNAL, "boom", retryable=True)
    for _ in range(3):
        unit = one(db, worker, Pool.CPU)
        attempts.fail(db, unit, problem)
        assert not claims.claim(db, worker, Pool.CPU, 1)
        with db.begin() as tx:
            tx.execute(text("update omni.units set ready_at = now()"))
    assert jobs.get(db, "acme", job)["error"]["message"] == "boom"


def test_a_release_costs_nothing(db: Engine, make_job: Any, make_worker: Any) -> None:
    make_job()
    worker = make_worker()
    for _ in range(5):
        attempts.release(db, one(db, worker, Pool.CPU))
    counts = value(db, "select (lost, failed, rejected, released)::text from omni.units")
    assert counts == "(0,0,0,5)"


def test_cancel_ends_a_job_in_any_phase_and_nothing_is_written_after(
    db: Engine, make_job: Any, make_worker: Any
) -> None:
    job, worker = make_job(), make_worker()
    unit = one(db, worker, Pool.CPU)
    assert jobs.cancel(db, "acme", job)
    assert not jobs.cancel(db, "acme", job)
    assert workers.unwanted(db, [(unit.unit_id, 1)]) == {(unit.unit_id, 1)}
    with pytest.raises(Fenced):
        attempts.finish(db, unit, {}, follow=[NewUnit(UnitKind.SPAN, unit.source_id)])
    assert value(db, "select count(*) from omni.units where state in ('ready', 'running')") == 0
    assert value(db, "select count(*) from omni.units where kind = 'span'") == 0


def test_a_claim_leaves_cancelled_jobs_alone(db: Engine, make_job: Any, make_worker: Any) -> None:
    job = make_job()
    jobs.cancel(db, "acme", job)
    assert claims.claim(db, make_worker(), Pool.CPU, 5) == []
    assert not claims.waiting(db)


def test_an_answer_to_the_same_question_is_taken_over(db: Engine, make_job: Any, make_worker: Any) -> None:
    worker = make_worker()
    for reuse in (True, True, False):
        make_job(reuse=reuse)
        prepare = one(db, worker, Pool.CPU)
        attempts.finish(db, prepare, {}, follow=[NewUnit(UnitKind.SPAN, prepare.source_id, reuse_key="q")])
        if not reuse:
            assert len(claims.claim(db, worker, Pool.GPU, 1)) == 1
        else:
            for unit in claims.claim(db, worker, Pool.GPU, 1):
                attempts.finish(db, unit, {"text": "hi"})
            deliver(db, worker)
    assert value(db, "select count(*) from omni.units where kind = 'span' and reused_from is not null") == 1


def test_a_span_is_taken_over_with_its_words_or_not_at_all(db: Engine, make_job: Any, make_worker: Any) -> None:
    worker, spoken = make_worker(), {"segments": [{"text": "hi"}]}

    def ask() -> str:
        job = make_job()
        for unit in claims.claim(db, worker, Pool.CPU, 5):
            if unit.job_id == job:
                attempts.finish(db, unit, {}, follow=[NewUnit(UnitKind.SPAN, unit.source_id, reuse_key="q")])
            else:
                attempts.release(db, unit)
        return job

    ask()
    span = one(db, worker, Pool.GPU)
    attempts.finish(db, span, spoken, follow=[NewUnit(UnitKind.WORDS, span.source_id, input={"of": span.unit_id})])
    ask()
    (again,) = claims.claim(db, worker, Pool.GPU, 1)  # the words of the first are still open
    attempts.release(db, again)
    for unit in claims.claim(db, worker, Pool.CPU, 1):
        redo = NewUnit(UnitKind.SPAN, unit.source_id, 7, {"redo_of": span.unit_id})
        attempts.finish(db, unit, {"words": 1}, follow=[redo])
    job = ask()
    assert value(db, "select count(*) from omni.units where job_id = :j and kind = 'words'", j=job) == 0  # nor a redo
    for unit in claims.claim(db, worker, Pool.GPU, 5):
        if unit.input.get("redo_of") == span.unit_id:
            attempts.finish(db, unit, {"segments": []})
    job = ask()
    copied = "select count(*) from omni.units where job_id = :j and state = 'done' and reused_from is not null"
    assert value(db, copied, j=job) == 3
    linked = """select count(*) from omni.units s join omni.units o on o.job_id = s.job_id
        and s.unit_id::text in (o.input->>'of', o.input->>'redo_of') where s.job_id = :j"""
    assert value(db, linked, j=job) == 2


def test_the_phase_is_that_of_the_work(db: Engine, make_job: Any, make_worker: Any) -> None:
    job, worker = make_job(), make_worker()
    assert jobs.get(db, "acme", job)["phase"] == "prepare"
    prepare = one(db, worker, Pool.CPU)
    attempts.finish(db, prepare, {}, follow=[NewUnit(UnitKind.SPAN, prepare.source_id)])
    assert jobs.get(db, "acme", job)["phase"] == "map"


def test_last_units_finished_at_once_settle_the_job_once(db: Engine, make_job: Any, make_worker: Any) -> None:
    job, worker = make_job(), make_worker()
    prepare = one(db, worker, Pool.CPU)
    attempts.finish(db, prepare, {}, follow=[NewUnit(UnitKind.PAGE, prepare.source_id, n) for n in range(16)])
    pages = claims.claim(db, worker, Pool.GPU, 16)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda unit: attempts.finish(db, unit, {}), pages))
    assert value(db, "select count(*) from omni.units where kind = 'deliver'") == 1
    assert jobs.get(db, "acme", job)["phase"] == "deliver"


def test_an_idempotency_key_gives_the_same_job(db: Engine, make_job: Any) -> None:
    first = make_job(idempotency_key="k", request_digest="a")
    assert make_job(idempotency_key="k", request_digest="a") == first
    with pytest.raises(Exception, match="used with another request"):
        make_job(idempotency_key="k", request_digest="b")
    assert make_job(tenant="other", idempotency_key="k", request_digest="b") != first


def test_a_worker_that_was_given_up_comes_back_with_its_next_beat(db: Engine, make_job: Any, make_worker: Any) -> None:
    make_job()
    worker = make_worker()
    workers.set_state(db, worker, "gone")
    assert claims.claim(db, worker, Pool.CPU, 1) == []
    workers.beat(db, worker, {}, {})
    assert len(claims.claim(db, worker, Pool.CPU, 1)) == 1
    assert reaper.reap(db) == {}


def test_of_a_silent_worker_nobody_in_company_is_charged_and_twice_shaken_runs_alone(
    db: Engine, make_job: Any, make_worker: Any
) -> None:
    for _ in range(2):
        make_job()
    for times in (1, 2):
        worker = make_worker()
        assert len(claims.claim(db, worker, Pool.CPU, 2)) == 2
        workers.set_state(db, worker, "gone")  # without a verdict: it only fell silent
        assert reaper.reap(db) == {Outcome.RELEASED: 2}
        assert claims.quarantined(db, Pool.CPU) == (times == 2)
    assert claims.claim(db, make_worker(), Pool.CPU, 2) == []
    alone = make_worker()
    one(db, alone, Pool.CPU, solo=True)
    workers.set_state(db, alone, "gone")
    assert reaper.reap(db) == {Outcome.LOST: 1}
