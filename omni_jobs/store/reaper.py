"""Units that nobody works on any more, and whose fault that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from omni_jobs.errors import Problem
from omni_jobs.job import Outcome, UnitKind
from omni_jobs.store.attempts import Ending, Fenced, end
from omni_jobs.store.database import auto, rows


@dataclass(frozen=True, slots=True)
class Stale:
    """A unit whose holder is gone or late."""

    unit_id: str
    job_id: str
    generation: int
    kind: UnitKind
    position: int


def reap(db: Engine, limit: int = 500) -> dict[Outcome, int]:
    """Take units back from workers that are gone, and those beyond their deadline.

    Blame: a unit is charged with a loss if it was all that its process worked on, or if it is late. In company nobody
    is charged: those in question run alone next time, where a culprit shows itself; where nobody can tell who is, all
    do the second time. The third loss kills a unit.

    Returns:
        How many ended in which way.
    """
    with auto(db) as tx:
        found = rows(
            tx,
            """
            select u.unit_id::text, u.job_id::text, u.generation, u.kind, u.position, u.deadline_at < now() as late,
              w.verdict, count(*) over (partition by u.worker_id) as company
            from omni.units u left join omni.workers w using (worker_id)
            where u.state = 'running' and (w.worker_id is null or w.state = 'gone' or u.deadline_at < now())
            order by u.job_id limit :limit
            """,
            limit=limit,
        )
    if not found:
        return {}
    endings = [_blame(one) for one in found]
    counts: dict[Outcome, int] = {}
    for ending, said in zip(endings, end(db, endings), strict=True):
        if not isinstance(said, Fenced):
            counts[ending.outcome] = counts.get(ending.outcome, 0) + 1
    return counts


def hand_back(db: Engine, worker_id: str, held: Sequence[tuple[str, int]], older_s: float) -> int:
    """Release what a worker is said to run and does not: a claim or an ending whose commit got no answer.

    Args:
        held: (unit, generation) it does run.
        older_s: claims younger than this may be on their way to it.

    Returns:
        How many.
    """
    with auto(db) as tx:
        found = rows(
            tx,
            """
            select u.unit_id::text, u.job_id::text, u.generation, u.kind, u.position from omni.units u
            where u.worker_id = :worker_id and u.state = 'running'
              and u.claimed_at < now() - make_interval(secs => :older_s)
              and not exists (
                select 1 from unnest(cast(:ids as uuid[]), cast(:generations as int[])) as h(unit_id, generation)
                where h.unit_id = u.unit_id and h.generation = u.generation)
            """,
            worker_id=worker_id,
            ids=[unit_id for unit_id, _ in held],
            generations=[generation for _, generation in held],
            older_s=older_s,
        )
    if found:
        units = [_stale(one) for one in found]
        end(db, [Ending(unit, Outcome.RELEASED) for unit in units])
    return len(found)


def _stale(one: dict[str, Any]) -> Stale:
    return Stale(one["unit_id"], one["job_id"], one["generation"], UnitKind(one["kind"]), one["position"])


def _blame(one: dict[str, Any]) -> Ending:
    unit, verdict = _stale(one), one["verdict"]
    if one["late"] or (verdict is None and one["company"] == 1):
        return Ending(unit, Outcome.LOST, problem=Problem.lost(late=one["late"]))
    if verdict is None:
        return Ending(unit, Outcome.RELEASED, beside=True)
    suspect = unit.unit_id in verdict["suspects"]
    if suspect and verdict["alone"]:
        return Ending(unit, Outcome.LOST, problem=Problem.lost(late=False))
    return Ending(unit, Outcome.RELEASED, alone=suspect, beside=not suspect and not verdict["drained"])
