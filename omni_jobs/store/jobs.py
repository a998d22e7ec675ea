"""Jobs as users see them: insert, look, list, cancel."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.errors import Conflict, NotFound, TooMany
from omni_jobs.job import JobState, Phase, UnitKind
from omni_jobs.store import ledger, reuse
from omni_jobs.store.database import auto, jsonb, new_id, row, rows, run
from omni_jobs.store.locks import LockedJob, lock
from omni_jobs.store.settle import close, locked
from omni_jobs.store.units import NewUnit
from omni_jobs.store.units import insert as insert_units

# A day of video is decoded in hours; one that stands still is noticed long before (`OMNI_STALL_S`).
PREPARE_LIMIT_S = 86_400.0

# What a job shows of itself. Media seconds and pages count the map units, which carry them as `amount`.
VIEW = """
select j.job_id, j.tenant_id, j.name, j.origin, j.options, j.metadata, j.state, j.phase, j.revision, j.error, j.waiting,
  j.reused_from, j.result_revision, j.created_at, j.started_at, j.finished_at, j.priority, j.event_seq,
  (select jsonb_agg(jsonb_build_object('source_id', s.source_id, 'uri', s.uri, 'name', s.name, 'medium', s.medium,
     'container', s.container, 'duration_s', s.duration_s, 'pages', s.pages, 'size_bytes', s.size_bytes,
     'sha256', s.sha256, 'tasks', s.tasks, 'error', s.error) order by s.position)
   from omni.sources s where s.job_id = j.job_id) as sources,
  (select jsonb_build_object(
     'units_total', count(*), 'units_done', count(*) filter (where u.state = 'done'),
     'units_dead', count(*) filter (where u.state = 'dead'),
     'units_running', count(*) filter (where u.state = 'running'),
     'media_s_total', coalesce(sum(u.amount) filter (where u.kind in ('span', 'clip')), 0),
     'media_s_done', coalesce(sum(u.amount * u.progress) filter (where u.kind in ('span', 'clip')), 0),
     'words_s_total', coalesce(sum(u.amount) filter (where u.kind = 'words'), 0),
     'words_s_done', coalesce(sum(u.amount * u.progress) filter (where u.kind = 'words'), 0),
     'pages_total', coalesce(sum(u.amount) filter (where u.kind = 'page'), 0),
     'pages_done', coalesce(sum(u.amount) filter (where u.kind = 'page' and u.state in ('done', 'dead')), 0))
   from omni.units u where u.job_id = j.job_id and u.revision = j.revision) as progress,
  (select jsonb_object_agg(c.medium, c.totals) from (
     select medium, jsonb_build_object(
       'done', round(sum(n) filter (where state = 'done'), 3), 'empty', round(sum(n) filter (where state = 'empty'), 3),
       'failed', round(sum(n) filter (where state = 'failed'), 3)) as totals
     from (select medium, state, case medium when 'page' then 1 else (end_s - start_s)::numeric end as n
           from omni.coverage where job_id = j.job_id and revision = j.result_revision) n
     group by medium) c) as coverage,
  (select jsonb_agg(distinct a.format) from omni.artifacts a
   where a.job_id = j.job_id and a.revision = j.result_revision) as formats
from omni.jobs j
"""


@dataclass(frozen=True, slots=True)
class NewSource:
    """A source to insert; `snapshot`, `sha256` and `size_bytes` are set when its bytes were handed in."""

    uri: str
    name: str
    snapshot: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class NewJob:
    tenant_id: str
    sources: tuple[NewSource, ...]
    options: dict[str, Any]
    job_id: str = field(default_factory=new_id)
    name: str = ""
    origin: str = "api"
    origin_ref: dict[str, Any] = field(default_factory=dict)
    secret: dict[str, Any] = field(default_factory=dict, repr=False)
    metadata: dict[str, Any] = field(default_factory=dict)
    reuse: bool = True
    priority: int = 0
    due_at: datetime | None = None
    idempotency_key: str | None = None
    request_digest: str = ""
    ledger_id: str | None = None


def insert(db: Engine, job: NewJob, *, max_open: int | None = None, attach: bool = False) -> tuple[str, bool]:
    """Insert a job with its sources and their prepare units, in one transaction.

    Args:
        max_open: refuse when the tenant has so many open jobs (its own limit, where it has one, stands above this).
        attach: an open job of the same single source, bytes and options is good enough: two who ask for the same at
            once make one.

    Returns:
        Its id, and whether it is new: the same idempotency key, a ledger row already taken, or a job to attach to
        gives the old one.

    Raises:
        Conflict: the idempotency key was used with another request.
        TooMany: the tenant has as many open jobs as it may have.
    """
    sources = [
        {
            "source_id": new_id(),
            "unit_id": new_id(),
            "position": position,
            "uri": source.uri,
            "name": source.name,
            "snapshot": source.snapshot,
            "sha256": source.sha256,
            "size_bytes": source.size_bytes,
        }
        for position, source in enumerate(job.sources)
    ]
    with db.begin() as tx:
        if attach and (found := _find_alone(tx, job)) is not None:
            return found, False
        if not _insert(tx, job, sources, max_open):
            return _instead(tx, job), False
        if job.ledger_id is not None and not ledger.take(tx, job.ledger_id, job.job_id):
            tx.rollback()
            return _of_ledger(db, job.ledger_id), False
    return job.job_id, True


# One statement, so that a submission costs one round trip and one commit.
INSERT = """
with tenant as (
  insert into omni.tenants (tenant_id) values (:tenant_id) on conflict do nothing
), most as (
  select coalesce((select max_open_jobs from omni.tenants where tenant_id = :tenant_id),
    cast(:max_open as integer)) as n
), room as (
  select 1 as one where (select n from most) is null or (select n from most) > (
    select count(*) from (
      select 1 from omni.jobs where tenant_id = :tenant_id and state in ('queued', 'running')
      limit (select n from most)) open)
), job as (
  insert into omni.jobs (job_id, tenant_id, name, origin, origin_ref, options, secret, metadata, reuse, priority,
    due_at, idempotency_key, request_digest, event_seq)
  select :job_id, :tenant_id, :name, :origin, :origin_ref, :options, :secret, :metadata, :reuse, :priority,
    coalesce(cast(:due_at as timestamptz), 'infinity'), :idempotency_key, :request_digest, 1 from room
  on conflict (tenant_id, idempotency_key) do nothing returning job_id
), source as (
  select s.* from jsonb_to_recordset(:sources) as s(source_id uuid, unit_id uuid, position integer, uri text, name text,
    snapshot text, sha256 text, size_bytes bigint), job
), sources as (
  insert into omni.sources (source_id, job_id, position, uri, name, snapshot, sha256, size_bytes)
  select source_id, :job_id, position, uri, name, snapshot, sha256, size_bytes from source
), units as (
  insert into omni.units (unit_id, job_id, tenant_id, source_id, revision, kind, pool, position, priority, due_at,
    time_limit_s)
  select unit_id, :job_id, :tenant_id, source_id, 1, 'prepare', 'cpu', position, :priority,
    coalesce(cast(:due_at as timestamptz), 'infinity'), :time_limit_s from source
), kept as (
  update omni.blobs set state = 'live', changed_at = now() from job
  where blobs.job_id = job.job_id and kind = 'source' and blobs.state = 'writing'
)
insert into omni.events (job_id, seq, type, data)
select job_id, 1, 'job.queued', jsonb_build_object('name', cast(:name as text), 'sources', cast(:uris as jsonb))
from job
"""


def _insert(tx: Connection, job: NewJob, sources: list[dict[str, Any]], max_open: int | None) -> bool:
    return bool(
        run(
            tx,
            INSERT,
            job_id=job.job_id,
            tenant_id=job.tenant_id,
            name=job.name or job.sources[0].name,
            origin=job.origin,
            origin_ref=jsonb(job.origin_ref),
            options=jsonb(job.options),
            secret=jsonb(job.secret),
            metadata=jsonb(job.metadata),
            reuse=job.reuse,
            priority=job.priority,
            due_at=job.due_at,
            idempotency_key=job.idempotency_key,
            request_digest=job.request_digest,
            max_open=max_open,
            sources=jsonb(sources),
            uris=jsonb([source.uri for source in job.sources]),
            time_limit_s=PREPARE_LIMIT_S,
        )
    )


def _instead(tx: Connection, job: NewJob) -> str:
    """Why a job was not inserted: its key has one, or the tenant has too many."""
    if job.idempotency_key is not None and (earlier := _earlier(tx, job)) is not None:
        return earlier
    found = row(
        tx,
        "select count(*) as n from omni.jobs where tenant_id = :tenant_id and state in ('queued', 'running')",
        tenant_id=job.tenant_id,
    )
    assert found is not None
    raise _too_many(job.tenant_id, found["n"])


def _too_many(tenant_id: str, open: int) -> TooMany:
    return TooMany(f"{open} jobs of {tenant_id} are open, as many as it may have: try again when some ended")


def require_room(db: Engine, tenant_id: str, *, max_open: int, idempotency_key: str | None = None) -> None:
    """Refuse what `insert` would refuse now, before anybody has sent bytes for it; a replay needs no room.

    Raises:
        TooMany: the tenant has as many open jobs as it may have.
    """
    with auto(db) as tx:
        found = row(
            tx,
            """
            with most as (
              select coalesce((select max_open_jobs from omni.tenants where tenant_id = :tenant_id),
                cast(:max_open as integer)) as n
            ), open as (
              select 1 from omni.jobs where tenant_id = :tenant_id and state in ('queued', 'running')
              limit (select n from most)
            )
            select (select count(*) from open) as open, (select n from most) as most, exists (
              select 1 from omni.jobs where tenant_id = :tenant_id and idempotency_key = :key) as replay
            """,
            tenant_id=tenant_id,
            max_open=max_open,
            key=idempotency_key,
        )
    assert found is not None
    if found["open"] >= found["most"] and not found["replay"]:
        raise _too_many(tenant_id, found["open"])


def _earlier(tx: Connection, job: NewJob) -> str | None:
    found = row(
        tx,
        "select job_id, request_digest from omni.jobs where tenant_id = :tenant_id and idempotency_key = :key",
        tenant_id=job.tenant_id,
        key=job.idempotency_key,
    )
    if found is None:
        return None
    if found["request_digest"] != job.request_digest:
        raise Conflict(f"idempotency key {job.idempotency_key!r} was used with another request: job {found['job_id']}")
    return str(found["job_id"])


def _of_ledger(db: Engine, ledger_id: str) -> str:
    with auto(db) as tx:
        found = row(tx, "select job_id from omni.ledger where ledger_id = :id", id=ledger_id)
    return str(found["job_id"]) if found else ""


def get(db: Engine, tenant_id: str, job_id: str) -> dict[str, Any]:
    """One job with its sources, progress and coverage totals.

    Raises:
        NotFound: this tenant has no such job.
    """
    with auto(db) as tx:
        found = row(
            tx, VIEW + "where j.job_id = :job_id and j.tenant_id = :tenant_id", job_id=job_id, tenant_id=tenant_id
        )
    if found is None:
        raise NotFound(f"no job {job_id}")
    return found


def mark(db: Engine, tenant_id: str, job_id: str) -> str:
    """A word that changes whenever the job shows something new; cheap enough to be asked for again and again.

    Raises:
        NotFound: this tenant has no such job.
    """
    with auto(db) as tx:
        found = row(
            tx,
            """
            select concat_ws('-', j.event_seq, j.state, md5(j.waiting),
              (select round(sum(u.progress)::numeric, 3) from omni.units u
               where u.job_id = j.job_id and u.revision = j.revision and u.state = 'running')) as mark
            from omni.jobs j where j.job_id = :job_id and j.tenant_id = :tenant_id
            """,
            job_id=job_id,
            tenant_id=tenant_id,
        )
    if found is None:
        raise NotFound(f"no job {job_id}")
    return found["mark"]


def origin(db: Engine, job_id: str) -> dict[str, Any]:
    """{created_at, reused_from} of a job that exists."""
    with auto(db) as tx:
        found = row(tx, "select created_at, reused_from from omni.jobs where job_id = :job_id", job_id=job_id)
    assert found is not None
    return found


def list_page(
    db: Engine, tenant_id: str, *, limit: int = 50, before: str | None = None, state: str | None = None
) -> list[dict[str, Any]]:
    """Jobs, newest first. `before` is the id of the last one of the page before (ids rise with time)."""
    with auto(db) as tx:
        return rows(
            tx,
            VIEW
            + """
            where j.tenant_id = :tenant_id and (cast(:before as uuid) is null or j.job_id < cast(:before as uuid))
              and (cast(:state as text) is null or j.state = :state)
            order by j.job_id desc limit :limit
            """,
            tenant_id=tenant_id,
            before=before,
            state=state,
            limit=limit,
        )


def find_open(db: Engine, tenant_id: str, *, sha256: str, name: str, options: dict[str, Any]) -> str | None:
    """An open job of the same single source, bytes and options: who types the same command again goes on with it."""
    with auto(db) as tx:
        return _find_open(tx, tenant_id, sha256, name, options)


def _find_open(tx: Connection, tenant_id: str, sha256: str, name: str, options: dict[str, Any]) -> str | None:
    found = row(
        tx,
        """
        select j.job_id from omni.jobs j join omni.sources s using (job_id)
        where j.tenant_id = :tenant_id and j.state in ('queued', 'running') and s.sha256 = :sha256
          and s.name = :name and j.options = :options
        order by j.job_id limit 1
        """,
        tenant_id=tenant_id,
        sha256=sha256,
        name=name,
        options=jsonb(options),
    )
    return str(found["job_id"]) if found else None


def _find_alone(tx: Connection, job: NewJob) -> str | None:
    """`find_open` of a job to be; whoever asks for the same waits until this transaction has ended."""
    (source,) = job.sources
    same = json.dumps([job.tenant_id, source.sha256, source.name, job.options], sort_keys=True)
    run(tx, "select pg_advisory_xact_lock(hashtextextended(:same, 0))", same=same)
    return _find_open(tx, job.tenant_id, source.sha256 or "", source.name, job.options)


def cancel(db: Engine, tenant_id: str, job_id: str) -> bool:
    """End a job; workers notice within half a second. False when it had already been cancelled.

    Raises:
        NotFound: this tenant has no such job.
        Conflict: it has ended otherwise.
    """
    with locked(db, [job_id]) as (tx, found):
        job = _of_tenant(found, tenant_id, job_id)
        if job.state is JobState.CANCELLED:
            return False
        if not job.open:
            raise Conflict(f"job {job_id} cannot be cancelled: it has {job.state.value}")
        close(tx, job, JobState.CANCELLED)
    return True


def _of_tenant(found: dict[str, LockedJob], tenant_id: str, job_id: str) -> LockedJob:
    job = found.get(job_id)
    if job is None or job.tenant_id != tenant_id:
        raise NotFound(f"no job {job_id}")
    return job


def retry(db: Engine, tenant_id: str, job_id: str, *, secret: dict[str, Any] | None = None) -> int:
    """Try again what a partial or failed job could not answer, as a new revision; the old result stays until then.

    Sources that lack nothing keep their answers. The others are prepared anew, because canonical media end with the
    job; every unit that was answered before is taken over, so only what was missing is done.

    Args:
        secret: such as a password, which was forgotten when the job ended.

    Returns:
        The new revision.

    Raises:
        NotFound: this tenant has no such job.
        Conflict: it is open, succeeded, or was cancelled.
    """
    with locked(db, [job_id]) as (tx, found):
        job = _of_tenant(found, tenant_id, job_id)
        if job.state not in (JobState.PARTIAL, JobState.FAILED):
            raise Conflict(f"job {job_id} has nothing to retry: it is {job.state.value}")
        job.revision += 1
        job.state, job.phase, job.error = JobState.RUNNING, Phase.PREPARE, None
        job.record("job.retried", revision=job.revision)
        run(
            tx,
            "update omni.jobs set revision = :revision, secret = :secret where job_id = :id",
            revision=job.revision,
            secret=jsonb(secret or {}),
            id=job_id,
        )
        whole = reuse.take_whole_sources(tx, job)
        again = rows(
            tx,
            """
            update omni.sources set error = null where job_id = :id and not source_id = any(cast(:whole as uuid[]))
            returning source_id::text, position
            """,
            id=job_id,
            whole=whole,
        )
        insert_units(
            tx,
            job,
            [
                NewUnit(UnitKind.PREPARE, one["source_id"], one["position"], time_limit_s=PREPARE_LIMIT_S)
                for one in again
            ],
        )
        return job.revision


def delete(db: Engine, tenant_id: str, job_id: str) -> None:
    """Remove a job with everything that was made of it; the collector deletes its objects within seconds.

    An open job is cancelled by it: whoever works on it finds it gone.

    Raises:
        NotFound: this tenant has no such job.
    """
    with db.begin() as tx:
        _of_tenant(lock(tx, [job_id]), tenant_id, job_id)
        _remove(tx, [job_id])


def _remove(tx: Connection, job_ids: list[str]) -> None:
    run(
        tx,
        """
        with doomed as (
          update omni.blobs set state = 'garbage', changed_at = now()
          where job_id = any(cast(:ids as uuid[])) and state in ('writing', 'live')
        )
        delete from omni.jobs where job_id = any(cast(:ids as uuid[]))
        """,
        ids=job_ids,
    )


def expire(db: Engine, keep_days: float, limit: int = 100) -> int:
    """Delete jobs that ended so many days ago; returns how many. Several may do this at once."""
    with db.begin() as tx:
        found = rows(
            tx,
            """
            select job_id::text from omni.jobs where finished_at < now() - make_interval(secs => :seconds)
            order by job_id limit :limit for update skip locked
            """,
            seconds=keep_days * 86_400,
            limit=limit,
        )
        if found:
            _remove(tx, [one["job_id"] for one in found])
    return len(found)


def wait_reason(db: Engine, job_id: str, reason: str | None) -> None:
    """Say what a job waits for, such as free disk; None when it goes on."""
    with auto(db) as tx:
        run(
            tx,
            "update omni.jobs set waiting = :reason where job_id = :job_id and waiting is distinct from :reason",
            reason=reason,
            job_id=job_id,
        )


def now(db: Engine) -> datetime:
    """The database's clock: the only one that leases are measured with."""
    with auto(db) as tx:
        found = row(tx, "select now() as now")
    assert found is not None
    return found["now"]
