"""How a job comes in: its row, its sources and their prepare units, in one transaction, once."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.errors import Conflict, TooMany
from omni_jobs.store import ledger
from omni_jobs.store.database import auto, jsonb, new_id, row, run

# A day of video is decoded in hours; one that stands still is noticed long before (`OMNI_STALL_S`).
PREPARE_LIMIT_S = 86_400.0


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
    # Alone it is one statement, and needs no round trips to begin and to commit.
    with db.begin() if attach or job.ledger_id is not None else auto(db) as tx:
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
