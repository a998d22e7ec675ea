"""The one place where jobs move on. Job rows are locked first, always, and in the order of their ids.

`locked` is how everything that ends a unit, or a job, is done: inside it units change; when it leaves, each job moves
on as far as its units allow, and its row and events are written once.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from omni_jobs.errors import ErrorType, Problem
from omni_jobs.failpoints import reach
from omni_jobs.job import PHASE_OF, JobState, Phase, Step, Tally, UnitKind, next_phase
from omni_jobs.store.database import jsonb, rows, run
from omni_jobs.store.locks import LockedJob, lock, save, write
from omni_jobs.store.units import NewUnit, insert


@contextmanager
def locked(db: Engine, job_ids: Iterable[str]) -> Iterator[tuple[Connection, dict[str, LockedJob]]]:
    """A transaction that holds these jobs (those that exist), and settles and writes them when it ends."""
    with db.begin() as tx:
        jobs = lock(tx, job_ids)
        yield tx, jobs
        write(tx, jobs.values())
        settle(tx, jobs.values())
        save(tx, jobs.values())
        reach("end.saved")


def settle(tx: Connection, jobs: Iterable[LockedJob]) -> None:
    """Move locked jobs on as far as their units allow: insert the next phase's units, or close them."""
    while moving := [job for job in jobs if job.open and job.phase not in job.awaits]:
        steps = [(job, step) for job, tally in _tallies(tx, moving) if (step := _step(job, tally)) is not None]
        _enter(tx, [(job, step.phase) for job, step in steps if step.phase is not None])
        close(tx, [(job, step.close, _why(tx, job, step.close)) for job, step in steps if step.close is not None])
        reach("settle.taken")
        # A job that got no units in its new phase goes on at once.
        jobs = [job for job, _ in steps]


def _step(job: LockedJob, tally: Tally) -> Step | None:
    return next_phase(job.phase, tally, strict=job.options.get("on_gap") == "fail")


def _enter(tx: Connection, entering: Sequence[tuple[LockedJob, Phase]]) -> None:
    """Begin phases, with the units that every job has in them."""
    for job, phase in entering:
        job.phase = phase
        job.record("job.phase", phase=phase.value)
    summarised = [job for job, phase in entering if phase is Phase.REDUCE and job.options.get("summary", True)]
    insert(
        tx,
        [(job, [NewUnit(UnitKind.DELIVER)]) for job, phase in entering if phase is Phase.DELIVER]
        + _summaries(tx, summarised),
    )


def _summaries(tx: Connection, jobs: Sequence[LockedJob]) -> list[tuple[LockedJob, list[NewUnit]]]:
    """A unit for each source that could be read and has none yet."""
    if not jobs:
        return []
    found = rows(
        tx,
        """
        select s.job_id::text, s.source_id::text from jsonb_to_recordset(:asked) as a(job_id uuid, revision integer)
        join omni.sources s using (job_id)
        where s.job_id = any(cast(:ids as uuid[])) and s.error is null and not exists (
          select 1 from omni.units u where u.job_id = s.job_id and u.revision = a.revision
            and u.kind = 'reduce' and u.source_id = s.source_id)
        order by s.position
        """,
        asked=jsonb([{"job_id": job.job_id, "revision": job.revision} for job in jobs]),
        ids=[job.job_id for job in jobs],
    )
    return [
        (job, [NewUnit(UnitKind.REDUCE, one["source_id"]) for one in found if one["job_id"] == job.job_id])
        for job in jobs
    ]


def close(tx: Connection, closing: Sequence[tuple[LockedJob, JobState, Problem | None]]) -> None:
    """End locked jobs: their waiting units leave the queue, their canonical media are left to the collector."""
    if not closing:
        return
    run(
        tx,
        """
        with closed as materialized (
          select * from jsonb_to_recordset(:closing) as c(job_id uuid, revision integer, error jsonb)
        ), unwanted as (
          update omni.units u set state = 'dead', error = c.error, finished_at = now()
          from closed c where u.job_id = c.job_id and u.revision = c.revision and u.state = 'ready'
            and u.job_id = any(cast(:ids as uuid[]))
        )
        update omni.blobs set state = 'garbage', changed_at = now()
        where job_id = any(cast(:ids as uuid[])) and kind = 'media' and state = 'live'
        """,
        ids=[job.job_id for job, _, _ in closing],
        closing=jsonb(
            [
                {
                    "job_id": job.job_id,
                    "revision": job.revision,
                    "error": Problem(ErrorType.INTERNAL, f"its job {state.fate}").as_json(),
                }
                for job, state, _ in closing
            ]
        ),
    )
    for job, state, problem in closing:
        job.state, job.error = state, problem
        job.record(f"job.{state.value}", error=problem.as_json() if problem else None)


def _tallies(tx: Connection, jobs: Sequence[LockedJob]) -> Iterator[tuple[LockedJob, Tally]]:
    """Jobs of whose phase no unit is ready or running, with what has become of all their units."""
    kinds = {phase: [kind.value for kind in UnitKind if PHASE_OF[kind] is phase] for phase in Phase}
    asked = [{"job_id": job.job_id, "revision": job.revision, "kinds": kinds[job.phase]} for job in jobs]
    found = rows(
        tx,
        """
        with idle as materialized (
          select a.job_id, a.revision
          from jsonb_to_recordset(:asked) as a(job_id uuid, revision integer, kinds text[])
          where not exists (
            select 1 from omni.units u where u.job_id = a.job_id and u.revision = a.revision and u.kind = any(a.kinds)
              -- Not "in ('ready', 'running')": the index of open units would do, and there may be a million of them.
              and u.state not in ('done', 'dead'))
        )
        select a.job_id::text, u.units, s.n as sources, s.failed as sources_failed, c.gaps
        from idle a
        cross join lateral (
          select coalesce(jsonb_agg(jsonb_build_array(kind, state, n)), '[]') as units from (
            select kind, state, count(*) as n from omni.units where job_id = a.job_id and revision = a.revision
            group by kind, state) u) u
        cross join lateral (
          select count(*) as n, count(*) filter (where error is not null) as failed
          from omni.sources where job_id = a.job_id) s
        cross join lateral (
          select count(*) as gaps from omni.coverage
          where job_id = a.job_id and revision = a.revision and state = 'failed') c
        """,
        asked=jsonb(asked),
    )
    of = {job.job_id: job for job in jobs}
    for one in found:
        count = {
            wanted: {UnitKind(kind): n for kind, state, n in one["units"] if state == wanted}
            for wanted in ("done", "dead")
        }
        yield (
            of[one["job_id"]],
            Tally(0, count["done"], count["dead"], one["sources_failed"], one["sources"], one["gaps"]),
        )


def _why(tx: Connection, job: LockedJob, state: JobState) -> Problem | None:
    """The first error of a job that failed: of a source, else of a unit of the phase it ended in, else a gap."""
    if state is not JobState.FAILED:
        return None
    found = rows(
        tx,
        """
        select error from (
          select error, 0 as rank, position, source_id::text as id from omni.sources
            where job_id = :job_id and error is not null
          union all
          select error, 1, position, unit_id::text from omni.units
            where job_id = :job_id and revision = :revision and state = 'dead' and kind = any(cast(:kinds as text[]))
          union all
          select jsonb_build_object('type', 'unreadable', 'message', concat('a part has no answer: ', reason)), 2,
            position, source_id::text from omni.coverage
            where job_id = :job_id and revision = :revision and state = 'failed'
        ) e order by rank, position, id limit 1
        """,
        job_id=job.job_id,
        revision=job.revision,
        kinds=[kind.value for kind in UnitKind if PHASE_OF[kind] is job.phase],
    )
    if not found or not found[0]["error"]:
        return Problem(ErrorType.INTERNAL, "no unit could be answered", retryable=True)
    return Problem(**found[0]["error"])
