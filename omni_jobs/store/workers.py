"""Worker processes: one row for each start, one heartbeat for all it holds."""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Engine

from omni_jobs.store.database import auto, jsonb, new_id, row, rows, run


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a process ended.

    Attributes:
        suspects: the units in question when it died.
        alone: one was all it worked on.
        drained: it left by itself; nobody is in question.
    """

    suspects: tuple[str, ...] = ()
    alone: bool = False
    drained: bool = False


def register(
    db: Engine,
    worker_id: str | None = None,
    *,
    pool: str,
    host: str,
    pid: int,
    pid_started: int,
    version: str,
    backend: dict[str, Any] | None,
    slots: int = 1,
) -> str:
    """Say that a worker has started; returns its id. Saying it twice is harmless."""
    worker_id = worker_id or new_id()
    with db.begin() as tx:
        run(
            tx,
            """
            insert into omni.workers (worker_id, pool, host, pid, pid_started, version, backend, slots)
            values (:worker_id, :pool, :host, :pid, :pid_started, :version, :backend, :slots)
            on conflict (worker_id) do nothing
            """,
            worker_id=worker_id,
            pool=pool,
            host=host,
            pid=pid,
            pid_started=pid_started,
            version=version,
            backend=jsonb(backend) if backend else None,
            slots=slots,
        )
    return worker_id


def any_has(db: Engine, part: str) -> bool:
    """Whether a worker that lives has a model for this part, such as `speakers`."""
    with auto(db) as tx:
        found = row(
            tx,
            """
            select exists (
              select 1 from omni.workers where state <> 'gone' and jsonb_exists(backend -> 'models', :part)
            ) as has
            """,
            part=part,
        )
    return bool(found and found["has"])


def beat(db: Engine, worker_id: str, units: dict[str, tuple[int, float]], counters: dict[str, float]) -> int:
    """One heartbeat for the process, and how far each of its units is. A worker that was given up comes back with it.

    Args:
        units: unit id -> (generation, progress 0..1).
        counters: what the process has counted since it started.

    Returns:
        How many workers its pool has.
    """
    with auto(db) as tx:
        found = row(
            tx,
            """
            with moved as (
              select p.* from unnest(cast(:ids as uuid[]), cast(:generations as int[]), cast(:progress as real[]))
                as p(unit_id, generation, progress)
            ), free as (
              -- Progress is a courtesy: whoever ends one of them goes first.
              select u.unit_id, m.progress from omni.units u join moved m using (unit_id, generation)
              where u.unit_id = any(cast(:ids as uuid[])) and u.state = 'running' and u.progress <> m.progress
              order by u.unit_id for no key update of u skip locked
            ), told as (
              update omni.units u set progress = free.progress from free where u.unit_id = free.unit_id
            )
            update omni.workers set heartbeat_at = now(), progress = progress + 1, counters = :counters, verdict = null,
              state = case state when 'gone' then 'running' else state end
            where worker_id = :worker_id
            returning (select count(*) from omni.workers w where w.pool = workers.pool and w.state = 'running') as pool
            """,
            worker_id=worker_id,
            ids=list(units),
            generations=[generation for generation, _ in units.values()],
            progress=[progress for _, progress in units.values()],
            counters=jsonb(counters),
        )
    return found["pool"] if found else 0


def set_state(db: Engine, worker_id: str, state: str) -> None:
    """Said too late, of one that is gone, it changes nothing."""
    with auto(db) as tx:
        run(
            tx,
            "update omni.workers set state = :state where worker_id = :id and state <> 'gone'",
            state=state,
            id=worker_id,
        )


def leave(db: Engine, worker_id: str, counters: dict[str, float]) -> None:
    """A worker says goodbye; what it could not end is handed back at no cost."""
    with auto(db) as tx:
        run(
            tx,
            "update omni.workers set state = 'gone', verdict = :verdict, counters = :counters where worker_id = :id",
            verdict=jsonb(asdict(Verdict(drained=True))),
            counters=jsonb(counters),
            id=worker_id,
        )


def bury(db: Engine, worker_id: str, verdict: Verdict | None) -> None:
    """Its process is dead; None: nobody can tell what it worked on."""
    with auto(db) as tx:
        run(
            tx,
            "update omni.workers set state = 'gone', verdict = :verdict where worker_id = :id and state <> 'gone'",
            verdict=jsonb(asdict(verdict)) if verdict is not None else None,
            id=worker_id,
        )


def unwanted(db: Engine, held: list[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of these (unit, generation) whose job is closed or gone, or that another attempt has taken over."""
    with auto(db) as tx:
        found = rows(
            tx,
            """
            select u.unit_id::text, u.generation from omni.units u join omni.jobs j using (job_id)
            where u.unit_id = any(cast(:ids as uuid[])) and j.finished_at is null and j.revision = u.revision
            """,
            ids=[unit_id for unit_id, _ in held],
        )
    return set(held) - {(one["unit_id"], one["generation"]) for one in found}


def of_host(db: Engine, host: str) -> list[dict[str, Any]]:
    """Workers of this machine that have not said goodbye: {worker_id, pid, pid_started}."""
    with auto(db) as tx:
        return rows(
            tx, "select worker_id, pid, pid_started from omni.workers where host = :host and state <> 'gone'", host=host
        )


def live(db: Engine, lease_s: float) -> list[dict[str, Any]]:
    """Workers heard of within a lease: {pool, version, backend, n}."""
    with auto(db) as tx:
        return rows(
            tx,
            """
            select pool, version, backend, count(*) as n from omni.workers
            where state <> 'gone' and heartbeat_at > now() - make_interval(secs => :lease_s)
            group by pool, version, backend order by pool
            """,
            lease_s=lease_s,
        )


def forget(db: Engine, lease_s: float) -> int:
    """Mark workers that went silent as gone; the reaper takes their units. Returns how many."""
    with db.begin() as tx:
        found = row(
            tx,
            """
            with gone as (
              update omni.workers set state = 'gone'
              where state <> 'gone' and heartbeat_at < now() - make_interval(secs => :lease_s) returning 1
            ) select count(*) as n from gone
            """,
            lease_s=lease_s,
        )
    return found["n"] if found else 0
