"""Sources of a job: what was named, the snapshot that is answered, and what prepare found in it."""

from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.errors import Problem
from omni_jobs.store.database import jsonb, row, rows, run

COLUMNS = """source_id, job_id, position, uri, name, tasks, snapshot, sha256, size_bytes, medium, container, duration_s,
  pages, probe, gaps, speech, reuse_key, error"""


def of_job(db: Engine, job_id: str) -> list[dict[str, Any]]:
    with db.connect() as tx:
        return rows(tx, f"select {COLUMNS} from omni.sources where job_id = :job_id order by position", job_id=job_id)


def get(db: Engine, source_id: str) -> dict[str, Any] | None:
    with db.connect() as tx:
        return row(tx, f"select {COLUMNS} from omni.sources where source_id = :id", id=source_id)


def keep_snapshot(db: Engine, source_id: str, *, key: str, sha256: str, size_bytes: int) -> None:
    """Note where the bytes that will be answered lie."""
    with db.begin() as tx:
        run(
            tx,
            """
            update omni.sources set snapshot = :key, sha256 = :sha256, size_bytes = :size_bytes where source_id = :id
            """,
            key=key,
            sha256=sha256,
            size_bytes=size_bytes,
            id=source_id,
        )


def describe(
    tx: Connection,
    source_id: str,
    *,
    medium: str,
    container: str,
    duration_s: float | None,
    pages: int | None,
    tasks: list[str],
    probe: dict[str, Any],
    gaps: list[list[Any]],
    speech: list[tuple[float, float]],
    reuse_key: str,
) -> None:
    """What prepare found; part of the transaction that ends prepare."""
    run(
        tx,
        """
        update omni.sources set medium = :medium, container = :container, duration_s = :duration_s, pages = :pages,
          tasks = :tasks, probe = :probe, gaps = :gaps, speech = :speech, reuse_key = :reuse_key
        where source_id = :id
        """,
        medium=medium,
        container=container,
        duration_s=duration_s,
        pages=pages,
        tasks=tasks,
        probe=jsonb(probe),
        gaps=jsonb(gaps),
        speech=jsonb(speech),
        reuse_key=reuse_key,
        id=source_id,
    )


def refuse(tx: Connection, source_id: str, problem: Problem) -> None:
    """A source that cannot be answered; its job goes on with the others."""
    run(
        tx,
        "update omni.sources set error = :error where source_id = :id",
        error=jsonb(problem.as_json()),
        id=source_id,
    )


def delivered_twin(db: Engine, *, tenant_id: str, reuse_key: str, but_not: str) -> str | None:
    """A source of the same tenant, bytes, options and models whose job has succeeded."""
    with db.connect() as tx:
        found = row(
            tx,
            """
            select s.source_id from omni.sources s join omni.jobs j using (job_id)
            where s.reuse_key = :reuse_key and j.tenant_id = :tenant_id and j.state = 'succeeded'
              and s.job_id <> :but_not and s.error is null
            order by j.finished_at desc limit 1
            """,
            reuse_key=reuse_key,
            tenant_id=tenant_id,
            but_not=but_not,
        )
    return str(found["source_id"]) if found else None


def copy_answers(tx: Connection, job: dict[str, Any], source_id: str, twin_id: str) -> int:
    """Answer a source whole from its twin: facts and answers are taken over, marked with where they are from."""
    run(
        tx,
        """
        update omni.sources s set medium = t.medium, container = t.container, duration_s = t.duration_s,
          pages = t.pages, tasks = t.tasks, probe = t.probe, gaps = t.gaps, speech = t.speech, reuse_key = t.reuse_key
        from omni.sources t where t.source_id = :twin_id and s.source_id = :source_id
        """,
        twin_id=twin_id,
        source_id=source_id,
    )
    run(
        tx,
        """
        update omni.jobs set reused_from = (select job_id from omni.sources where source_id = :twin_id)
        where job_id = :job_id
        """,
        twin_id=twin_id,
        job_id=job["job_id"],
    )
    return run(
        tx,
        """
        insert into omni.units (unit_id, job_id, source_id, revision, kind, pool, position, priority, input, amount,
          reuse_key, state, answer, answer_digest, reused_from, progress, finished_at)
        select gen_random_uuid(), :job_id, :source_id, :revision, u.kind, u.pool, u.position, u.priority, u.input,
          u.amount, u.reuse_key, 'done', u.answer, u.answer_digest, u.unit_id, 1, now()
        from omni.units u join omni.jobs j using (job_id)
        where u.source_id = :twin_id and u.state = 'done' and u.revision = j.revision
          and u.kind not in ('prepare', 'deliver')
        """,
        job_id=job["job_id"],
        source_id=source_id,
        revision=job["revision"],
        twin_id=twin_id,
    )
