"""Units as rows: how they are inserted, and what has become of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.errors import Problem
from omni_jobs.job import POOL_OF, UnitKind
from omni_jobs.store.database import auto, jsonb, new_id, row, rows, run
from omni_jobs.store.locks import LockedJob
from omni_jobs.store.reuse import take_units


@dataclass(frozen=True, slots=True)
class NewUnit:
    """A unit to insert: `ready`, or at once `dead` with its error.

    Attributes:
        amount: seconds of media or pages it stands for, for progress.
        cost: seconds of one slot of its pool it is expected to take: what its tenant is charged.
        bytes: of canonical media that wait with it.
    """

    kind: UnitKind
    source_id: str | None = None
    position: int = 0
    input: dict[str, Any] = field(default_factory=dict)
    amount: float = 0.0
    reuse_key: str | None = None
    unit_id: str = field(default_factory=new_id)
    error: Problem | None = None
    cost: float = 1.0
    bytes: int = 0
    time_limit_s: float = 3600.0


def insert(tx: Connection, wanted: Sequence[tuple[LockedJob, Sequence[NewUnit]]]) -> None:
    """Insert units of locked jobs; an answer to the same question is taken over where its job allows it."""
    new: list[dict[str, Any]] = []
    for job, units in wanted:
        asked = {unit.reuse_key: unit.source_id for unit in units if unit.reuse_key}
        answered = take_units(tx, job, asked) if asked else set()
        left = [unit for unit in units if unit.reuse_key not in answered]
        job.expects(unit.kind for unit in left if unit.error is None)
        new += [_row(job, unit) for unit in left]
    if not new:
        return
    run(
        tx,
        """
        insert into omni.units (unit_id, job_id, tenant_id, source_id, revision, kind, pool, position, priority, due_at,
          input, amount, cost, bytes, reuse_key, state, error, time_limit_s, finished_at)
        select n.unit_id, n.job_id, n.tenant_id, n.source_id, n.revision, n.kind, n.pool, n.position, n.priority,
          n.due_at, n.input, n.amount, n.cost, n.bytes, n.reuse_key,
          case when n.error is null then 'ready' else 'dead' end, n.error, n.time_limit_s,
          case when n.error is not null then now() end
        from jsonb_to_recordset(:units) as n(unit_id uuid, job_id uuid, tenant_id text, source_id uuid,
          revision integer, kind text, pool text, position integer, priority integer, due_at timestamptz, input jsonb,
          amount double precision, cost double precision, bytes bigint, reuse_key text, error jsonb,
          time_limit_s double precision)
        """,
        units=jsonb(new),
    )


def _row(job: LockedJob, unit: NewUnit) -> dict[str, Any]:
    return {
        "unit_id": unit.unit_id,
        "job_id": job.job_id,
        "tenant_id": job.tenant_id,
        "revision": job.revision,
        "priority": job.priority,
        "due_at": job.due_at,
        "source_id": unit.source_id,
        "kind": unit.kind.value,
        "pool": POOL_OF[unit.kind].value,
        "position": unit.position,
        "input": unit.input,
        "amount": unit.amount,
        "cost": unit.cost,
        "bytes": unit.bytes,
        "reuse_key": unit.reuse_key,
        "error": unit.error.as_json() if unit.error else None,
        "time_limit_s": unit.time_limit_s,
    }


def answers(db: Engine | Connection, job_id: str, revision: int, source_id: str | None = None) -> list[dict[str, Any]]:
    """Every unit of a revision with its input, answer, kept answer and error."""
    with auto(db) as tx:
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


def answer(db: Engine, unit_id: str) -> dict[str, Any] | None:
    """{kind, answer} of one unit."""
    with auto(db) as tx:
        return row(tx, "select kind, answer from omni.units where unit_id = :id", id=unit_id)


def dead(db: Engine, tenant_id: str, *, limit: int = 100) -> list[dict[str, Any]]:
    """Units that were given up although their job was not cancelled, newest first, with their counts and error."""
    with auto(db) as tx:
        return rows(
            tx,
            """
            select u.unit_id, u.job_id, j.name as job_name, j.state as job_state, s.name as source, u.kind, u.position,
              u.revision, u.lost, u.failed, u.rejected, u.error, u.finished_at
            from omni.units u join omni.jobs j using (job_id) left join omni.sources s on s.source_id = u.source_id
            where u.tenant_id = :tenant_id and u.state = 'dead' and u.revision = j.revision and j.state <> 'cancelled'
              and u.lost + u.failed + u.rejected > 0
            order by u.finished_at desc limit :limit
            """,
            tenant_id=tenant_id,
            limit=limit,
        )
