"""Worker processes: one row for each start, one heartbeat for all it holds."""

from typing import Any

from sqlalchemy import Engine

from omni_jobs.store.database import jsonb, new_id, row, rows, run


def register(
    db: Engine, *, pool: str, host: str, pid: int, pid_started: int, version: str, backend: dict[str, Any] | None
) -> str:
    """Say that a worker has started; returns its id."""
    worker_id = new_id()
    with db.begin() as tx:
        run(
            tx,
            """
            insert into omni.workers (worker_id, pool, host, pid, pid_started, version, backend)
            values (:worker_id, :pool, :host, :pid, :pid_started, :version, :backend)
            """,
            worker_id=worker_id,
            pool=pool,
            host=host,
            pid=pid,
            pid_started=pid_started,
            version=version,
            backend=jsonb(backend) if backend else None,
        )
    return worker_id


def any_has(db: Engine, part: str) -> bool:
    """Whether a worker that lives has a model for this part, such as `speakers`."""
    with db.connect() as tx:
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


def beat(db: Engine, worker_id: str, units: dict[str, tuple[int, float]]) -> None:
    """One heartbeat for the process, and how far each of its units is. A worker that was given up comes back with it.

    Args:
        units: unit id -> (generation, progress 0..1).
    """
    with db.begin() as tx:
        run(
            tx,
            """
            update omni.workers set heartbeat_at = now(), progress = progress + 1,
              state = case state when 'gone' then 'running' else state end
            where worker_id = :worker_id
            """,
            worker_id=worker_id,
        )
        if units:
            run(
                tx,
                """
                update omni.units u set progress = p.progress
                from unnest(cast(:ids as uuid[]), cast(:generations as int[]), cast(:progress as real[]))
                  as p(unit_id, generation, progress)
                where u.unit_id = p.unit_id and u.generation = p.generation and u.state = 'running'
                """,
                ids=list(units),
                generations=[generation for generation, _ in units.values()],
                progress=[progress for _, progress in units.values()],
            )


def set_state(db: Engine, worker_id: str, state: str) -> None:
    with db.begin() as tx:
        run(tx, "update omni.workers set state = :state where worker_id = :id", state=state, id=worker_id)


def cancelled_units(db: Engine, worker_id: str) -> list[str]:
    """Units this worker runs although their job is closed."""
    with db.connect() as tx:
        found = rows(
            tx,
            """
            select u.unit_id from omni.units u join omni.jobs j using (job_id)
            where u.worker_id = :worker_id and u.state = 'running' and j.state not in ('queued', 'running')
            """,
            worker_id=worker_id,
        )
    return [str(one["unit_id"]) for one in found]


def of_host(db: Engine, host: str) -> list[dict[str, Any]]:
    """Workers of this machine that have not said goodbye: {worker_id, pid, pid_started}."""
    with db.connect() as tx:
        return rows(
            tx, "select worker_id, pid, pid_started from omni.workers where host = :host and state <> 'gone'", host=host
        )


def live(db: Engine, lease_s: float) -> list[dict[str, Any]]:
    """Workers heard of within a lease: {pool, version, backend, n}."""
    with db.connect() as tx:
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
