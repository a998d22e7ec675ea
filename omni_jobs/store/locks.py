"""Job rows that a transaction holds, and how they are written back: once, with their events."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from omni_jobs.errors import Problem
from omni_jobs.job import PHASE_OF, POOL_OF, JobState, Phase, Pool, UnitKind
from omni_jobs.store.database import jsonb, rows, run

Write = Callable[[Connection, list[Any]], None]


@dataclass(slots=True)
class LockedJob:
    """A job row that is ours until the transaction ends, and what has changed of it.

    Attributes:
        woken: pools that have got work.
        awaits: phases of which this transaction has inserted units that somebody must work on.
        events: (type, data), numbered when they are written.
        writes: (how, what) is written of it besides.
    """

    job_id: str
    tenant_id: str
    state: JobState
    phase: Phase
    revision: int
    options: dict[str, Any]
    priority: int
    due_at: str
    reuse: bool
    result_revision: int | None
    error: Problem | None = None
    woken: set[Pool] = field(default_factory=set)
    awaits: set[Phase] = field(default_factory=set)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    writes: list[tuple[Write, Any]] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return self.state.open

    def record(self, type: str, **data: Any) -> None:
        self.events.append((type, data))

    def write(self, how: Write, what: Any) -> None:
        """Have something written before the job moves on: what many jobs write in the same way is one call."""
        self.writes.append((how, what))

    def expects(self, kinds: Iterable[UnitKind]) -> None:
        """It has got units of these kinds."""
        for kind in kinds:
            self.woken.add(POOL_OF[kind])
            self.awaits.add(PHASE_OF[kind])

    def start(self) -> None:
        """Work on it has begun; the claim says so unless somebody held the row."""
        if self.state is JobState.QUEUED:
            self.state = JobState.RUNNING
            self.record("job.running")


def lock(tx: Connection, job_ids: Iterable[str]) -> dict[str, LockedJob]:
    """Lock jobs in the order of their ids, so that no two transactions wait for each other; gone ones are left out."""
    found = rows(
        tx,
        """
        select job_id::text, tenant_id, state, phase, revision, options, priority, due_at::text, reuse, result_revision
        from omni.jobs where job_id = any(cast(:ids as uuid[])) order by job_id for update
        """,
        ids=sorted(set(job_ids)),
    )
    return {
        one["job_id"]: LockedJob(**one | {"state": JobState(one["state"]), "phase": Phase(one["phase"])})
        for one in found
    }


def write(tx: Connection, jobs: Iterable[LockedJob]) -> None:
    """Write what jobs have collected."""
    collected: dict[Write, list[Any]] = {}
    for job in jobs:
        for how, what in job.writes:
            collected.setdefault(how, []).append(what)
        job.writes.clear()
    for how, found in collected.items():
        how(tx, found)


def save(tx: Connection, jobs: Iterable[LockedJob]) -> None:
    """Write the rows of jobs to which something happened, and their events."""
    changed = [
        {
            "job_id": job.job_id,
            "state": job.state.value,
            "phase": job.phase.value,
            "error": job.error.as_json() if job.error else None,
            "result_revision": job.result_revision,
            # What it waited for has come, or it can do without for now: who still waits says so again.
            "went_on": any(type == "unit.done" for type, _ in job.events),
            "events": [{"type": type, "data": data} for type, data in job.events],
        }
        for job in jobs
        if job.events
    ]
    if not changed:
        return
    run(
        tx,
        """
        with change as (
          select * from jsonb_to_recordset(:changed)
            as c(job_id uuid, state text, phase text, error jsonb, result_revision integer, went_on boolean,
              events jsonb)
        ), saved as (
          update omni.jobs j set state = c.state, phase = c.phase, result_revision = c.result_revision,
            event_seq = j.event_seq + jsonb_array_length(c.events),
            error = case when c.state in ('queued', 'running') then j.error else c.error end,
            waiting = case when c.state in ('queued', 'running') and not c.went_on then j.waiting end,
            secret = case when c.state in ('queued', 'running') then j.secret else '{}' end,
            started_at = case when c.state <> 'cancelled' then coalesce(j.started_at, now()) else j.started_at end,
            finished_at = case when c.state not in ('queued', 'running') then coalesce(j.finished_at, now()) end,
            swept_at = case when c.state not in ('queued', 'running') then now() end
          from change c where j.job_id = c.job_id
          returning j.job_id, j.event_seq - jsonb_array_length(c.events) as before, c.events
        )
        insert into omni.events (job_id, seq, type, data)
        select s.job_id, s.before + e.number, e.event ->> 'type', e.event -> 'data'
        from saved s cross join lateral jsonb_array_elements(s.events) with ordinality as e(event, number)
        """,
        changed=jsonb(changed),
    )
