"""How the whole installation stands, in two statements: what `/metrics` shows."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from omni_jobs.job import JobState, Pool
from omni_jobs.store.database import auto, row, rows

STATES = ("ready", "running", "dead")


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """What `store.pools.regulate` found last."""

    paused: bool
    ready_s: float
    ready_bytes: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """Counts of now; every state and pool is there, with 0 where there is none.

    Attributes:
        jobs: by state.
        units: by pool and state; done ones are not counted.
        oldest_s: pool -> since when its oldest ready unit could have been claimed; 0 without one.
        workers: pool -> those heard of within a lease.
        counters: series such as `units{kind="page"}` -> its sum over every worker process there was.
    """

    jobs: dict[str, int]
    units: dict[tuple[str, str], int]
    oldest_s: dict[str, float]
    pools: dict[str, PoolLoad]
    workers: dict[str, int]
    counters: dict[str, float]


def numbers(db: Engine, lease_s: float) -> Numbers:
    """Each count goes over an index of what is ready, running or dead; only `jobs` goes over all jobs."""
    with auto(db) as tx:
        units = rows(
            tx,
            """
            select pool, state, count(*) as n,
              coalesce(extract(epoch from now() - min(ready_at) filter (where state = 'ready')), 0) as oldest_s
            from omni.units where state = 'ready' group by pool, state
            union all
            select pool, state, count(*), 0 from omni.units where state = 'running' group by pool, state
            union all
            select pool, state, count(*), 0 from omni.units where state = 'dead' group by pool, state
            """,
        )
        found = row(
            tx,
            """
            select
              (select jsonb_object_agg(state, n) from (
                select state, count(*) as n from omni.jobs group by state) j) as jobs,
              (select jsonb_agg(jsonb_build_array(pool, paused, ready_s, ready_bytes)) from omni.pools) as pools,
              (select jsonb_object_agg(pool, n) from (
                select pool, count(*) as n from omni.workers
                where state <> 'gone' and heartbeat_at > now() - make_interval(secs => :lease_s)
                group by pool) w) as workers,
              (select jsonb_object_agg(series, total) from (
                select c.key as series, sum(c.value::text::double precision) as total
                from omni.workers w cross join lateral jsonb_each(w.counters) c
                where jsonb_typeof(c.value) = 'number' group by c.key) s) as counters
            """,
            lease_s=lease_s,
        )
    assert found is not None
    pools = [pool.value for pool in Pool]
    loads: list[list[Any]] = found["pools"] or []
    return Numbers(
        jobs={state.value: 0 for state in JobState} | (found["jobs"] or {}),
        units={(pool, state): 0 for pool in pools for state in STATES}
        | {(one["pool"], one["state"]): one["n"] for one in units},
        oldest_s=dict.fromkeys(pools, 0.0)
        | {one["pool"]: max(0.0, float(one["oldest_s"])) for one in units if one["state"] == "ready"},
        pools={pool: PoolLoad(paused, ready_s, ready_bytes) for pool, paused, ready_s, ready_bytes in loads},
        workers=dict.fromkeys(pools, 0) | (found["workers"] or {}),
        counters=found["counters"] or {},
    )
