"""Jobs as users see and end them: look, list, cancel, retry, delete."""

from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.errors import Conflict, NotFound
from omni_jobs.job import JobState, Phase, UnitKind
from omni_jobs.store import reuse
from omni_jobs.store.database import auto, jsonb, row, rows, run
from omni_jobs.store.locks import LockedJob, lock
from omni_jobs.store.settle import close, locked
from omni_jobs.store.submissions import PREPARE_LIMIT_S
from omni_jobs.store.units import NewUnit, insert

# What a job shows of itself. Media seconds and pages count the map units, which carry them as `amount`.
VIEW = """
select j.job_id, j.tenant_id, j.name, j.origin, j.options, j.metadata, j.state, j.phase, j.revision, j.error, j.waiting,
  j.reused_from, j.result_revision, j.created_at, j.started_at, j.finished_at, j.priority,
  nullif(j.due_at, 'infinity') as deadline, j.event_seq,
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
            raise Conflict(f"job {job_id} cannot be cancelled: it {job.state.fate}")
        close(tx, [(job, JobState.CANCELLED, None)])
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
            raise Conflict(f"job {job_id} has nothing to retry: it {job.state.fate}")
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
        prepare = [
            NewUnit(UnitKind.PREPARE, one["source_id"], one["position"], time_limit_s=PREPARE_LIMIT_S) for one in again
        ]
        insert(tx, [(job, prepare)])
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
            order by finished_at limit :limit for update skip locked
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
