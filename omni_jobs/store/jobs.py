"""Jobs as users see them: insert, look, list, cancel."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.errors import Conflict, NotFound
from omni_jobs.job import JobState, UnitKind
from omni_jobs.store import ledger, tenants
from omni_jobs.store.database import jsonb, new_id, row, rows, run
from omni_jobs.store.events import record
from omni_jobs.store.settle import close, insert_unit, lock

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
    idempotency_key: str | None = None
    request_digest: str = ""
    ledger_id: str | None = None


def insert(db: Engine, job: NewJob) -> tuple[str, bool]:
    """Insert a job with its sources and their prepare units, in one transaction.

    Returns:
        Its id, and whether it is new: the same idempotency key, or a ledger row already taken, gives the old one.

    Raises:
        Conflict: the idempotency key was used with another request.
    """
    with db.begin() as tx:
        tenants.ensure(tx, job.tenant_id)
        if not _insert_row(tx, job):
            return _earlier(tx, job), False
        if job.ledger_id is not None and not ledger.take(tx, job.ledger_id, job.job_id):
            tx.rollback()
            return _of_ledger(db, job.ledger_id), False
        record(tx, job.job_id, "job.queued", name=job.name, sources=[source.uri for source in job.sources])
        new = {"job_id": job.job_id, "revision": 1, "priority": job.priority, "woken": set()}
        for position, source in enumerate(job.sources):
            source_id = _insert_source(tx, job.job_id, position, source)
            insert_unit(tx, new, UnitKind.PREPARE, source_id=source_id, position=position)
    return job.job_id, True


def _insert_row(tx: Connection, job: NewJob) -> bool:
    return bool(
        run(
            tx,
            """
            insert into omni.jobs (job_id, tenant_id, name, origin, origin_ref, options, secret, metadata, reuse,
              priority, idempotency_key, request_digest)
            values (:job_id, :tenant_id, :name, :origin, :origin_ref, :options, :secret, :metadata, :reuse,
              :priority, :idempotency_key, :request_digest)
            on conflict (tenant_id, idempotency_key) do nothing
            """,
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
            idempotency_key=job.idempotency_key,
            request_digest=job.request_digest,
        )
    )


def _insert_source(tx: Connection, job_id: str, position: int, source: NewSource) -> str:
    source_id = new_id()
    run(
        tx,
        """
        insert into omni.sources (source_id, job_id, position, uri, name, snapshot, sha256, size_bytes)
        values (:source_id, :job_id, :position, :uri, :name, :snapshot, :sha256, :size_bytes)
        """,
        source_id=source_id,
        job_id=job_id,
        position=position,
        uri=source.uri,
        name=source.name,
        snapshot=source.snapshot,
        sha256=source.sha256,
        size_bytes=source.size_bytes,
    )
    return source_id


def _earlier(tx: Connection, job: NewJob) -> str:
    found = row(
        tx,
        "select job_id, request_digest from omni.jobs where tenant_id = :tenant_id and idempotency_key = :key",
        tenant_id=job.tenant_id,
        key=job.idempotency_key,
    )
    assert found is not None
    if found["request_digest"] != job.request_digest:
        raise Conflict(f"idempotency key {job.idempotency_key!r} was used with another request: job {found['job_id']}")
    return str(found["job_id"])


def _of_ledger(db: Engine, ledger_id: str) -> str:
    with db.connect() as tx:
        found = row(tx, "select job_id from omni.ledger where ledger_id = :id", id=ledger_id)
    return str(found["job_id"]) if found else ""


def get(db: Engine, tenant_id: str, job_id: str) -> dict[str, Any]:
    """One job with its sources, progress and coverage totals.

    Raises:
        NotFound: this tenant has no such job.
    """
    with db.connect() as tx:
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
    with db.connect() as tx:
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


def list_page(
    db: Engine, tenant_id: str, *, limit: int = 50, before: str | None = None, state: str | None = None
) -> list[dict[str, Any]]:
    """Jobs, newest first. `before` is the id of the last one of the page before (ids rise with time)."""
    with db.connect() as tx:
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
    with db.connect() as tx:
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


def cancel(db: Engine, tenant_id: str, job_id: str) -> bool:
    """End a job; workers notice within half a second. False when it had already been cancelled.

    Raises:
        NotFound: this tenant has no such job.
        Conflict: it has ended otherwise.
    """
    with db.begin() as tx:
        job = lock(tx, job_id)
        if job is None or job["tenant_id"] != tenant_id:
            raise NotFound(f"no job {job_id}")
        if job["state"] == JobState.CANCELLED.value:
            return False
        if not JobState(job["state"]).open:
            raise Conflict(f"job {job_id} cannot be cancelled: it has {job['state']}")
        close(tx, job, JobState.CANCELLED)
    return True


def wait_reason(db: Engine, job_id: str, reason: str | None) -> None:
    """Say what a job waits for, such as free disk; None when it goes on."""
    with db.begin() as tx:
        run(
            tx,
            "update omni.jobs set waiting = :reason where job_id = :job_id and waiting is distinct from :reason",
            reason=reason,
            job_id=job_id,
        )


def closed_with_media(db: Engine, limit: int = 50) -> list[dict[str, Any]]:
    """Jobs that ended and whose canonical media have not been swept: {job_id, tenant_id, finished_at}."""
    with db.connect() as tx:
        return rows(
            tx,
            """
            select job_id, tenant_id, finished_at from omni.jobs
            where state not in ('queued', 'running') and swept_at is null order by finished_at limit :limit
            """,
            limit=limit,
        )


def swept(db: Engine, job_id: str) -> None:
    with db.begin() as tx:
        run(tx, "update omni.jobs set swept_at = now() where job_id = :job_id", job_id=job_id)


def now(db: Engine) -> datetime:
    """The database's clock: the only one that leases are measured with."""
    with db.connect() as tx:
        found = row(tx, "select now() as now")
    assert found is not None
    return found["now"]
