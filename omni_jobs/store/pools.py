"""What waits in each pool, and whether prepare must wait for the gpu pool."""

from sqlalchemy import Engine

from omni_jobs.job import Pool
from omni_jobs.store.claims import KINDS
from omni_jobs.store.database import auto, jsonb, row, run


def regulate(db: Engine, *, ready_s: float, ready_bytes: int) -> bool:
    """Pause prepare while the gpu pool has enough ready: seconds of its work, or bytes of canonical media.

    Returns:
        Whether prepare is paused now.
    """
    with auto(db) as tx:
        found = row(
            tx,
            """
            with ready as (
              select coalesce(sum(cost), 0) / greatest(1, (
                  select sum(slots) from omni.workers where pool = 'gpu' and state = 'running')) as seconds,
                coalesce(sum(bytes), 0) as bytes
              from omni.units where kind = any(cast(:kinds as text[])) and state = 'ready'
            )
            update omni.pools p set ready_s = r.seconds, ready_bytes = r.bytes, checked_at = now(),
              paused = r.seconds >= :most_s or r.bytes >= :most_bytes
            from ready r where p.pool = 'gpu' returning p.paused
            """,
            kinds=KINDS[Pool.GPU],
            most_s=ready_s,
            most_bytes=ready_bytes,
        )
    return bool(found and found["paused"])


WAITING = ("waiting for a worker: none of the pool it needs is running", "waiting: enough is prepared for the gpu pool")


def explain(db: Engine, lease_s: float) -> int:
    """Say of open jobs what they wait for where the job itself cannot show it, and take it back; returns how many.

    A pool without a live worker, and a prepare that is paused, look like a job that is merely queued.
    """
    with auto(db) as tx:
        return run(
            tx,
            """
            with unmanned as (
              select p.pool from jsonb_to_recordset(:pools) as p(pool text, kinds text[])
              where not exists (select 1 from omni.workers w where w.pool = p.pool and w.state = 'running'
                  and w.heartbeat_at > now() - make_interval(secs => :lease_s))
                and exists (select 1 from omni.units where state = 'ready' and kind = any(p.kinds))
            ), paused as (
              select 1 as one from omni.pools where pool = 'gpu' and paused
            ), said as (
              select j.job_id, case
                when exists (select 1 from omni.units u where u.job_id = j.job_id and u.state = 'ready'
                  and u.pool in (select pool from unmanned)) then :no_worker
                when j.state = 'queued' and exists (select 1 from paused) then :enough end as reason
              from omni.jobs j
              where j.state in ('queued', 'running') and (j.waiting is null or j.waiting in (:no_worker, :enough))
                and (j.waiting is not null or exists (select 1 from unmanned) or exists (select 1 from paused))
            ), changed as (
              select j.job_id, said.reason from omni.jobs j join said using (job_id)
              where j.waiting is distinct from said.reason order by j.job_id limit 1000 for update of j skip locked
            )
            update omni.jobs j set waiting = c.reason from changed c where j.job_id = c.job_id
            """,
            lease_s=lease_s,
            pools=jsonb([{"pool": pool.value, "kinds": kinds} for pool, kinds in KINDS.items()]),
            no_worker=WAITING[0],
            enough=WAITING[1],
        )
