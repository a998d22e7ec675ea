"""The life of a unit: claim, finish, fail, reject, release, reap.

Every function makes one transaction. Whoever changes a unit for good locks its job first, then the unit,
and lets `settle` move the job on before it commits.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.errors import ErrorType, OmniError, Problem
from omni_jobs.job import BACKOFF_S, MAX_FAILED, MAX_LOST, JobState, Outcome, Pool, UnitKind
from omni_jobs.store.database import jsonb, row, rows, run, storable
from omni_jobs.store.events import record
from omni_jobs.store.reuse import take_units
from omni_jobs.store.settle import insert_unit, lock, settle

InTransaction = Callable[[Connection, dict[str, Any]], object]


class Fenced(OmniError):
    """Another generation holds, or has ended, this unit: the answer is not taken."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A unit that is ours until the lease ends, with what a handler needs of its job and source."""

    unit_id: str
    job_id: str
    tenant_id: str
    source_id: str | None
    revision: int
    generation: int
    kind: UnitKind
    position: int
    input: dict[str, Any]
    rung: int
    options: dict[str, Any]
    reuse: bool
    secret: dict[str, Any] = field(repr=False)
    seconds_left: float


@dataclass(frozen=True, slots=True)
class NewUnit:
    """A unit that follows from another one's answer."""

    kind: UnitKind
    source_id: str | None = None
    position: int = 0
    input: dict[str, Any] = field(default_factory=dict)
    amount: float = 0.0
    reuse_key: str | None = None
    unit_id: str | None = None
    error: Problem | None = None
    time_limit_s: float = 3600.0


def claim(db: Engine, worker_id: str, pool: Pool, room: int) -> list[Claimed]:
    """Take up to `room` ready units of running jobs: generation + 1 and an attempt row, in one statement."""
    with db.begin() as tx:
        taken = rows(
            tx,
            """
            with picked as (
              select u.unit_id from omni.units u
              join omni.jobs j on j.job_id = u.job_id and j.state in ('queued', 'running')
              where u.pool = :pool and u.state = 'ready' and u.ready_at <= now()
                -- One that was given up would lose them at once: it beats first.
                and exists (select 1 from omni.workers where worker_id = :worker_id and state = 'running')
              order by u.priority desc, u.job_id, u.position
              limit :room
              for update of u skip locked
            ), taken as (
              update omni.units u set state = 'running', generation = u.generation + 1, worker_id = :worker_id,
                claimed_at = now(), deadline_at = now() + make_interval(secs => u.time_limit_s), progress = 0
              from picked where u.unit_id = picked.unit_id
              returning u.*
            ), tried as (
              insert into omni.attempts (unit_id, generation, worker_id, rung)
              select unit_id, generation, worker_id, rung from taken
            )
            select t.unit_id, t.job_id, j.tenant_id, t.source_id, t.revision, t.generation, t.kind, t.position, t.input,
              t.rung, j.options, j.reuse, j.secret, j.state as job_state, t.time_limit_s as seconds_left
            from taken t join omni.jobs j using (job_id)
            """,
            pool=pool.value,
            room=room,
            worker_id=worker_id,
        )
        for job_id in sorted({one["job_id"] for one in taken if one["job_state"] == "queued"}):
            _start(tx, job_id)
    return [_claimed(one) for one in taken]


def _start(tx: Connection, job_id: str) -> None:
    if run(
        tx,
        "update omni.jobs set state = 'running', started_at = now() where job_id = :job_id and state = 'queued'",
        job_id=job_id,
    ):
        record(tx, job_id, "job.running")


def _claimed(one: dict[str, Any]) -> Claimed:
    del one["job_state"]
    one |= {"unit_id": str(one["unit_id"]), "job_id": str(one["job_id"]), "kind": UnitKind(one["kind"])}
    one["source_id"] = str(one["source_id"]) if one["source_id"] else None
    return Claimed(**one)


def finish(
    db: Engine,
    unit: Claimed,
    answer: dict[str, Any] | None,
    *,
    follow: Iterable[NewUnit] = (),
    also: InTransaction | None = None,
) -> set[Pool]:
    """Store an answer, what follows from it, and let the job move on. The same call twice is harmless.

    Args:
        follow: units to insert; those whose `reuse_key` has an answer are taken over as done.
        also: further writes of the handler, in the same transaction, given the locked job row.

    Returns:
        The pools that have new work.

    Raises:
        Fenced: the unit was taken over, or ended otherwise.
    """
    answer = storable(answer)
    digest = hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()
    with db.begin() as tx:
        job = lock(tx, unit.job_id)
        held = _held(tx, unit)
        if held is None or job is None:
            raise Fenced(f"unit {unit.unit_id} is gone")
        if held["state"] == "done" and (held["generation"], held["answer_digest"]) == (unit.generation, digest):
            return set(Pool)
        if held["generation"] != unit.generation or held["state"] != "running":
            raise Fenced(f"unit {unit.unit_id}: generation {held['generation']} has replaced {unit.generation}")
        if JobState(job["state"]).open:
            _store(tx, unit, answer, digest)
            if also is not None:
                also(tx, job)
            insert_all(tx, job, follow)
            record(tx, unit.job_id, "unit.done", unit=unit.unit_id, kind=unit.kind.value, position=unit.position)
            settle(tx, job)
            return job["woken"]
        _end(tx, unit.unit_id, unit.generation, Outcome.RELEASED, state="dead", problem=_closed(job["state"]))
    raise Fenced(f"job {unit.job_id} has {job['state']}")


def _store(tx: Connection, unit: Claimed, answer: dict[str, Any] | None, digest: str) -> None:
    run(
        tx,
        """
        update omni.units set state = 'done', answer = :answer, answer_digest = :digest, progress = 1,
          finished_at = now(), worker_id = null, error = null
        where unit_id = :unit_id
        """,
        answer=jsonb(answer),
        digest=digest,
        unit_id=unit.unit_id,
    )
    _close_attempt(tx, unit.unit_id, unit.generation, Outcome.SUCCEEDED, None)


def _closed(state: str) -> Problem:
    return Problem(ErrorType.INTERNAL, f"its job has {state}")


def insert_all(tx: Connection, job: dict[str, Any], units: Iterable[NewUnit]) -> None:
    """Insert units of a locked job; an answer to the same question is taken over where the job allows it."""
    units = list(units)
    asked = {unit.reuse_key: unit.source_id for unit in units if unit.reuse_key}
    answered = take_units(tx, job, asked) if asked and job["reuse"] else set()
    for unit in units:
        if unit.reuse_key in answered:
            continue
        insert_unit(
            tx,
            job,
            unit.kind,
            source_id=unit.source_id,
            position=unit.position,
            input=unit.input,
            amount=unit.amount,
            reuse_key=unit.reuse_key,
            unit_id=unit.unit_id,
            error=unit.error,
            time_limit_s=unit.time_limit_s,
        )


def fail(db: Engine, unit: Claimed, problem: Problem) -> None:
    """An attempt ended with an error: back with a delay, or dead when it cannot or may no longer be retried."""
    with db.begin() as tx:
        job = lock(tx, unit.job_id)
        if job is None or not _is_ours(tx, unit):
            return
        counts = row(tx, "select failed from omni.units where unit_id = :id", id=unit.unit_id)
        assert counts is not None
        failed = counts["failed"] + 1
        again = problem.retryable and failed < MAX_FAILED
        _end(
            tx,
            unit.unit_id,
            unit.generation,
            Outcome.FAILED,
            state="ready" if again else "dead",
            problem=problem,
            delay_s=BACKOFF_S[min(failed, len(BACKOFF_S)) - 1],
        )
        record(tx, unit.job_id, "unit.failed", unit=unit.unit_id, kind=unit.kind.value, error=problem.as_json())
        if not again:
            settle(tx, job)


def reject(db: Engine, unit: Claimed, answer: dict[str, Any], problem: Problem, *, last: bool) -> None:
    """A gate refused the answer: ask again one rung up; on the last rung the unit is dead, its best answer kept."""
    with db.begin() as tx:
        job = lock(tx, unit.job_id)
        if job is None or not _is_ours(tx, unit):
            return
        run(
            tx,
            "update omni.units set kept = coalesce(kept, :kept), rung = rung + 1 where unit_id = :id",
            kept=jsonb(answer),
            id=unit.unit_id,
        )
        _end(tx, unit.unit_id, unit.generation, Outcome.REJECTED, state="dead" if last else "ready", problem=problem)
        record(tx, unit.job_id, "unit.rejected", unit=unit.unit_id, kind=unit.kind.value, error=problem.as_json())
        if last:
            settle(tx, job)


def release(db: Engine, unit: Claimed, *, delay_s: float = 0.0) -> None:
    """Hand a unit back untried: drain, cancel, no room. It costs the unit nothing."""
    with db.begin() as tx:
        job = lock(tx, unit.job_id)
        if job is None or not _is_ours(tx, unit):
            return
        if JobState(job["state"]).open:
            _end(tx, unit.unit_id, unit.generation, Outcome.RELEASED, state="ready", delay_s=delay_s)
        else:
            _end(tx, unit.unit_id, unit.generation, Outcome.RELEASED, state="dead", problem=_closed(job["state"]))


def reap(db: Engine, limit: int = 500) -> int:
    """Take units back from workers that are gone or late; the third loss kills a unit. Returns how many."""
    with db.connect() as tx:
        stale = rows(
            tx,
            """
            select u.unit_id, u.job_id, u.generation, u.kind, u.deadline_at < now() as late
            from omni.units u left join omni.workers w using (worker_id)
            where u.state = 'running' and (w.worker_id is null or w.state = 'gone' or u.deadline_at < now())
            order by u.job_id limit :limit
            """,
            limit=limit,
        )
    return sum(_lose(db, one) for one in stale)


def _lose(db: Engine, one: dict[str, Any]) -> int:
    with db.begin() as tx:
        job = lock(tx, one["job_id"])
        found = row(
            tx,
            """
            select lost from omni.units
            where unit_id = :unit_id and generation = :generation and state = 'running' for update
            """,
            unit_id=one["unit_id"],
            generation=one["generation"],
        )
        if job is None or found is None:
            return 0
        lost = found["lost"] + 1
        dead = lost >= MAX_LOST or not JobState(job["state"]).open
        problem = Problem.lost(late=one["late"])
        _end(
            tx,
            one["unit_id"],
            one["generation"],
            Outcome.LOST,
            state="dead" if dead else "ready",
            problem=problem,
            delay_s=BACKOFF_S[lost - 1] if lost > 1 else 0.0,
        )
        record(tx, str(one["job_id"]), "unit.lost", unit=str(one["unit_id"]), kind=one["kind"], times=lost)
        if dead:
            settle(tx, job)
        return 1


def _held(tx: Connection, unit: Claimed) -> dict[str, Any] | None:
    return row(
        tx,
        "select state, generation, answer_digest from omni.units where unit_id = :id for update",
        id=unit.unit_id,
    )


def _is_ours(tx: Connection, unit: Claimed) -> bool:
    held = _held(tx, unit)
    return held is not None and held["state"] == "running" and held["generation"] == unit.generation


def _end(
    tx: Connection,
    unit_id: str,
    generation: int,
    outcome: Outcome,
    *,
    state: str,
    problem: Problem | None = None,
    delay_s: float = 0.0,
) -> None:
    """Close an attempt that brought no answer, and count it where its kind is counted."""
    error = jsonb(problem.as_json()) if problem else None
    run(
        tx,
        f"""
        update omni.units set state = :state, {outcome.value} = {outcome.value} + 1, worker_id = null, progress = 0,
          error = :error, ready_at = now() + make_interval(secs => :delay_s),
          finished_at = case when :state = 'dead' then now() end
        where unit_id = :unit_id
        """,
        state=state,
        error=error,
        delay_s=delay_s,
        unit_id=unit_id,
    )
    if state == "dead":
        _refuse_source(tx, unit_id)
    _close_attempt(tx, unit_id, generation, outcome, problem)


def _refuse_source(tx: Connection, unit_id: str) -> None:
    """A source whose preparation died has no units: the error is its own."""
    run(
        tx,
        """
        update omni.sources s set error = u.error from omni.units u
        where u.unit_id = :id and u.kind = 'prepare' and s.source_id = u.source_id and s.error is null
        """,
        id=unit_id,
    )


def _close_attempt(tx: Connection, unit_id: str, generation: int, outcome: Outcome, problem: Problem | None) -> None:
    run(
        tx,
        """
        update omni.attempts set finished_at = now(), outcome = :outcome, error = :error
        where unit_id = :unit_id and generation = :generation
        """,
        outcome=outcome.value,
        error=jsonb(problem.as_json()) if problem else None,
        unit_id=unit_id,
        generation=generation,
    )


def waiting(db: Engine) -> dict[Pool, int]:
    """Pools with work that can be claimed now, and how much (at most 1,000 are counted)."""
    with db.connect() as tx:
        found = rows(
            tx,
            """
            select p.pool, (
              select count(*) from (
                select 1 from omni.units u join omni.jobs j using (job_id)
                where u.pool = p.pool and u.state = 'ready' and u.ready_at <= now() and j.state in ('queued', 'running')
                limit 1000
              ) ready
            ) as n from unnest(array['cpu', 'gpu', 'io']) as p(pool)
            """,
        )
    return {Pool(one["pool"]): one["n"] for one in found if one["n"]}


def answers(db: Engine, job_id: str, revision: int, source_id: str | None = None) -> list[dict[str, Any]]:
    """Every unit of a revision with its input, answer, kept answer and error."""
    with db.connect() as tx:
        return rows(
            tx,
            """
            select unit_id, source_id, kind, position, state, input, answer, kept, error, reused_from
            from omni.units where job_id = :job_id and revision = :revision
              and (cast(:source_id as uuid) is null or source_id = :source_id)
            order by source_id, kind, position
            """,
            job_id=job_id,
            revision=revision,
            source_id=source_id,
        )
