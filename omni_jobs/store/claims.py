"""Taking work: fair between tenants, by priority and due time within one, never twice.

Fairness is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each tenant has a clock for each pool that
advances by cost / weight; a claim serves the smallest. A tenant that was idle joins at the pool's own clock, so it
neither is owed the past nor waits behind a flood.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine

from omni_jobs.job import POOL_OF, Pool, UnitKind
from omni_jobs.store.database import auto, jsonb, row, rows, run

KINDS: dict[Pool, list[str]] = {pool: [kind.value for kind in UnitKind if POOL_OF[kind] is pool] for pool in Pool}


@dataclass(frozen=True, slots=True)
class Claimed:
    """A unit that is ours until the lease ends, with what a handler needs of its job and source.

    Attributes:
        created_at, reused_from: of the job.
        waiting: what its job was said to wait for.
        prefix: where this attempt may put objects; they live if it succeeds and are collected if not.
    """

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
    created_at: datetime
    reused_from: UUID | None
    waiting: str | None
    seconds_left: float
    prefix: str


# One statement. `backlog` steps over the index from one (kind, tenant) to the next, so it costs a probe for each tenant
# with work, not for each unit. `quota` says how many of whom; only then rows are locked, and rows that a neighbour
# holds are stepped over. So are jobs: one that somebody holds just now is started by the next claim or finish.
CLAIM = """
with recursive allowed as (
  select kind from unnest(cast(:kinds as text[])) as k(kind)
  where exists (select 1 from omni.workers where worker_id = :worker_id and state = 'running')
    and (kind <> 'prepare' or not (select paused from omni.pools where pool = 'gpu'))
), backlog as (
  select u.kind, u.tenant_id from allowed a cross join lateral (
    select kind, tenant_id from omni.units
    where state = 'ready' and kind = a.kind and ready_at <= now() and alone = :solo
    order by tenant_id limit 1) u
  union all
  select u.kind, u.tenant_id from backlog b cross join lateral (
    select kind, tenant_id from omni.units
    where state = 'ready' and kind = b.kind and tenant_id > b.tenant_id and ready_at <= now()
      and alone = :solo
    order by tenant_id limit 1) u
), nearest as (
  select t.tenant_id, t.weight, greatest(p.clock, coalesce(c.clock, 0)) as clock
  from (select distinct tenant_id from backlog) b join omni.tenants t using (tenant_id)
  join omni.pools p on p.pool = :pool left join omni.clocks c on c.tenant_id = b.tenant_id and c.pool = :pool
  order by 3, 1 limit :room
), candidate as (
  select n.tenant_id, u.kind, n.clock + coalesce(sum(u.cost) over earlier, 0) / n.weight as start
  from nearest n join backlog b using (tenant_id) cross join lateral (
    select kind, cost, priority, due_at, job_id, position from omni.units
    where state = 'ready' and kind = b.kind and tenant_id = n.tenant_id and ready_at <= now()
      and alone = :solo
    order by priority desc, due_at, job_id, position limit :room) u
  window earlier as (partition by n.tenant_id order by u.priority desc, u.due_at, u.job_id, u.position
    rows between unbounded preceding and 1 preceding)
), quota as (
  select tenant_id, kind, count(*) as n
  from (select tenant_id, kind from candidate order by start, tenant_id limit :room) chosen group by tenant_id, kind
), picked as (
  select u.unit_id from quota q cross join lateral (
    select unit_id from omni.units
    where state = 'ready' and kind = q.kind and tenant_id = q.tenant_id and ready_at <= now()
      and alone = :solo and not unit_id = any(cast(:held as uuid[]))
    order by priority desc, due_at, job_id, position limit q.n for update skip locked) u
), taken as (
  update omni.units u set state = 'running', generation = u.generation + 1, worker_id = :worker_id,
    claimed_at = now(), deadline_at = now() + make_interval(secs => u.time_limit_s), progress = 0
  from picked where u.unit_id = picked.unit_id returning u.*
), tried as (
  insert into omni.attempts (unit_id, generation, worker_id, rung)
  select unit_id, generation, worker_id, rung from taken
), placed as (
  select unit_id, case kind
    when 'prepare' then concat(tenant_id, '/', job_id, '/media/', unit_id, '/', generation, '/')
    when 'deliver' then concat(tenant_id, '/', job_id, '/', revision, '/', generation, '/') end as prefix
  from taken
), reserved as (
  insert into omni.blobs (prefix, tenant_id, job_id, unit_id, generation, kind)
  select p.prefix, t.tenant_id, t.job_id, t.unit_id, t.generation,
    case t.kind when 'prepare' then 'media' else 'result' end
  from placed p join taken t using (unit_id) where p.prefix is not null on conflict do nothing
), free as (
  select f.job_id from (select distinct job_id from taken) t cross join lateral (
    select job_id from omni.jobs where job_id = t.job_id and state = 'queued' for update skip locked) f
), started as (
  update omni.jobs j set state = 'running', started_at = now(), event_seq = event_seq + 1
  from free where j.job_id = free.job_id returning j.job_id, j.event_seq
), told as (
  insert into omni.events (job_id, seq, type) select job_id, event_seq, 'job.running' from started
)
select t.unit_id, t.job_id, t.tenant_id, t.source_id, t.revision, t.generation, t.kind, t.position, t.input, t.rung,
  j.options, j.reuse, j.secret, j.created_at, j.reused_from, j.waiting, t.time_limit_s as seconds_left,
  coalesce(p.prefix, '') as prefix, t.cost, n.clock, n.weight
from taken t join omni.jobs j using (job_id) join placed p using (unit_id) join nearest n on n.tenant_id = t.tenant_id
"""

# A charge that a crash of the server forgets costs nobody anything: its commit does not wait for the disk, and the row
# of a busy tenant is locked for microseconds.
CHARGE = """
with owed as materialized (
  select o.*, set_config('synchronous_commit', 'off', true) as fast
  from jsonb_to_recordset(:owed) as o(tenant_id text, start double precision, by double precision)
), locked as (
  select tenant_id from omni.clocks where pool = :pool and tenant_id in (select tenant_id from owed)
  order by tenant_id for update
), joined as (
  insert into omni.clocks (tenant_id, pool, clock)
  select tenant_id, :pool, start + by from owed where tenant_id not in (select tenant_id from locked)
  on conflict do nothing
), charged as (
  update omni.clocks c set clock = greatest(c.clock, o.start) + o.by
  from owed o join locked using (tenant_id) where c.tenant_id = o.tenant_id and c.pool = :pool
)
update omni.pools set clock = greatest(clock, (select min(start) from owed)) where pool = :pool
"""


def claim(
    db: Engine, worker_id: str, pool: Pool, room: int, *, solo: bool = False, held: Sequence[str] = ()
) -> list[Claimed]:
    """Take up to `room` ready units and start their jobs: one statement, with an attempt row and a prefix for objects.

    Args:
        solo: take one that may only run with nothing beside it, instead of any other.
        held: units that the worker is still at, although they may have been given up: it may finish them, not take
            them a second time beside itself.
    """
    with auto(db) as tx:
        taken = rows(
            tx,
            CLAIM,
            pool=pool.value,
            kinds=KINDS[pool],
            room=1 if solo else room,
            worker_id=worker_id,
            solo=solo,
            held=list(held),
        )
        if not taken:
            return []
        _charge(tx, pool, taken)
    return [_claimed(one) for one in taken]


def _charge(tx: Connection, pool: Pool, taken: list[dict[str, Any]]) -> None:
    owed: dict[str, dict[str, Any]] = {}
    for one in taken:
        due = owed.setdefault(one["tenant_id"], {"tenant_id": one["tenant_id"], "start": one["clock"], "by": 0.0})
        due["by"] += one["cost"] / one["weight"]
    run(tx, CHARGE, pool=pool.value, owed=jsonb(list(owed.values())))


def _claimed(one: dict[str, Any]) -> Claimed:
    for name in ("cost", "clock", "weight"):
        del one[name]
    one |= {"unit_id": str(one["unit_id"]), "job_id": str(one["job_id"]), "kind": UnitKind(one["kind"])}
    one["source_id"] = str(one["source_id"]) if one["source_id"] else None
    return Claimed(**one)


def quarantined(db: Engine, pool: Pool) -> bool:
    """Whether a unit waits to be tried with nothing beside it."""
    with auto(db) as tx:
        found = row(
            tx,
            """
            select 1 as one from omni.units
            where pool = :pool and state = 'ready' and alone and ready_at <= now() limit 1
            """,
            pool=pool.value,
        )
    return found is not None


def waiting(db: Engine) -> dict[Pool, int]:
    """Pools with work that can be claimed now, and how much (at most 1,000 of a kind are counted)."""
    with auto(db) as tx:
        found = rows(
            tx,
            """
            select k.kind, (
              select count(*) from (
                select 1 from omni.units where kind = k.kind and state = 'ready' and ready_at <= now() limit 1000
              ) ready
            ) as n
            from unnest(cast(:kinds as text[])) as k(kind)
            where k.kind <> 'prepare' or not (select paused from omni.pools where pool = 'gpu')
            """,
            kinds=[kind.value for kind in UnitKind],
        )
    ready: dict[Pool, int] = {}
    for one in found:
        pool = POOL_OF[UnitKind(one["kind"])]
        ready[pool] = ready.get(pool, 0) + one["n"]
    return {pool: n for pool, n in ready.items() if n}
