"""The one place where a job moves on. The job row is locked first, always."""

from typing import Any

from sqlalchemy import Connection

from omni_jobs.errors import ErrorType, Problem
from omni_jobs.job import PHASE_OF, POOL_OF, JobState, Phase, Step, Tally, UnitKind, next_phase
from omni_jobs.store.database import jsonb, new_id, row, rows, run
from omni_jobs.store.events import record


def lock(tx: Connection, job_id: str) -> dict[str, Any] | None:
    """The job row, locked until the transaction ends; `woken` collects the pools that get work meanwhile."""
    found = row(
        tx,
        """
        select job_id, tenant_id, state, phase, revision, options, priority, reuse, result_revision
        from omni.jobs where job_id = :job_id for update
        """,
        job_id=job_id,
    )
    return found | {"woken": set()} if found else None


def settle(tx: Connection, job: dict[str, Any]) -> None:
    """Move a locked job on as far as its units allow: insert the next phase's units, or close it."""
    while JobState(job["state"]).open:
        step = next_phase(Phase(job["phase"]), _tally(tx, job), _gaps(tx, job))
        if step is None:
            return
        _take(tx, job, step)


def _take(tx: Connection, job: dict[str, Any], step: Step) -> None:
    if step.close is not None:
        close(tx, job, step.close, None if step.close is not JobState.FAILED else _why(tx, job))
        return
    assert step.phase is not None
    run(tx, "update omni.jobs set phase = :phase where job_id = :job_id", phase=step.phase.value, job_id=job["job_id"])
    job["phase"] = step.phase.value
    record(tx, job["job_id"], "job.phase", phase=step.phase.value)
    match step.phase:
        case Phase.REDUCE if job["options"].get("summary", True):
            sources = rows(
                tx,
                """
                select source_id from omni.sources s where job_id = :id and error is null and not exists (
                  select 1 from omni.units u
                  where u.source_id = s.source_id and u.revision = :revision and u.kind = 'reduce')
                order by position
                """,
                id=job["job_id"],
                revision=job["revision"],
            )
            for source in sources:
                insert_unit(tx, job, UnitKind.REDUCE, source_id=source["source_id"])
        case Phase.DELIVER:
            insert_unit(tx, job, UnitKind.DELIVER)
        case _:
            pass


def close(tx: Connection, job: dict[str, Any], state: JobState, problem: Problem | None = None) -> None:
    """End a locked job, and take its waiting units out of the queue."""
    run(
        tx,
        """
        update omni.jobs set state = :state, error = :error, waiting = null, secret = '{}', finished_at = now(),
          started_at = coalesce(started_at, case when :state <> 'cancelled' then now() end)
        where job_id = :job_id
        """,
        state=state.value,
        error=jsonb(problem.as_json()) if problem else None,
        job_id=job["job_id"],
    )
    run(
        tx,
        """
        update omni.units set state = 'dead', error = :error, finished_at = now()
        where job_id = :job_id and state = 'ready'
        """,
        error=jsonb(Problem(ErrorType.INTERNAL, f"its job has {state.value}").as_json()),
        job_id=job["job_id"],
    )
    job["state"] = state.value
    record(tx, job["job_id"], f"job.{state.value}", error=problem.as_json() if problem else None)


def insert_unit(
    tx: Connection,
    job: dict[str, Any],
    kind: UnitKind,
    *,
    source_id: Any = None,
    position: int = 0,
    input: dict[str, Any] | None = None,
    amount: float = 0.0,
    reuse_key: str | None = None,
    unit_id: str | None = None,
    error: Problem | None = None,
    time_limit_s: float = 3600.0,
) -> str:
    """Add one unit, `ready`, or at once `dead` with its error.

    Args:
        amount: seconds of media or pages it stands for, for progress.
    """
    unit_id = unit_id or new_id()
    state = "dead" if error else "ready"
    run(
        tx,
        """
        insert into omni.units (unit_id, job_id, source_id, revision, kind, pool, position, priority, input, amount,
          reuse_key, state, error, time_limit_s, finished_at)
        values (:unit_id, :job_id, :source_id, :revision, :kind, :pool, :position, :priority, :input, :amount,
          :reuse_key, :state, :error, :time_limit_s, case when :state = 'dead' then now() end)
        """,
        unit_id=unit_id,
        job_id=job["job_id"],
        source_id=source_id,
        revision=job["revision"],
        kind=kind.value,
        pool=POOL_OF[kind].value,
        position=position,
        priority=job["priority"],
        input=jsonb(input or {}),
        amount=amount,
        reuse_key=reuse_key,
        state=state,
        error=jsonb(error.as_json()) if error else None,
        time_limit_s=time_limit_s,
    )
    if state == "ready":
        job["woken"].add(POOL_OF[kind])
    return unit_id


def _tally(tx: Connection, job: dict[str, Any]) -> Tally:
    found = rows(
        tx,
        """
        select kind, state, count(*) as n from omni.units where job_id = :job_id and revision = :revision
        group by kind, state
        """,
        job_id=job["job_id"],
        revision=job["revision"],
    )
    sources = row(
        tx,
        """
        select count(*) as n, count(*) filter (where error is not null) as failed
        from omni.sources where job_id = :job_id
        """,
        job_id=job["job_id"],
    )
    assert sources is not None
    here = {kind.value for kind, phase in PHASE_OF.items() if phase.value == job["phase"]}
    open_units = sum(one["n"] for one in found if one["state"] in ("ready", "running") and one["kind"] in here)
    count = {
        state: {UnitKind(one["kind"]): one["n"] for one in found if one["state"] == state} for state in ("done", "dead")
    }
    return Tally(open_units, count["done"], count["dead"], sources["failed"], sources["n"])


def _gaps(tx: Connection, job: dict[str, Any]) -> int:
    if job["phase"] != Phase.DELIVER.value:
        return 0
    found = row(
        tx,
        """
        select count(*) as n from omni.coverage
        where job_id = :job_id and revision = :revision and state = 'failed'
        """,
        job_id=job["job_id"],
        revision=job["revision"],
    )
    return found["n"] if found else 0


def _why(tx: Connection, job: dict[str, Any]) -> Problem:
    """The first error of a job that failed: of a source, else of a unit of the phase it ended in."""
    kinds = [kind.value for kind, phase in PHASE_OF.items() if phase.value == job["phase"]]
    found = row(
        tx,
        """
        select error from (
          select error, 0 as rank, position, source_id::text as id from omni.sources
            where job_id = :job_id and error is not null
          union all
          select error, 1, position, unit_id::text from omni.units
            where job_id = :job_id and revision = :revision and state = 'dead' and kind = any(:kinds)
        ) e order by rank, position, id limit 1
        """,
        job_id=job["job_id"],
        revision=job["revision"],
        kinds=kinds,
    )
    if not found or not found["error"]:
        return Problem(ErrorType.INTERNAL, "no unit could be answered", retryable=True)
    return Problem(**found["error"])
