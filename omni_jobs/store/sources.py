"""Sources of a job: what was named, the snapshot that is answered, and what prepare found in it."""

from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.errors import Problem
from omni_jobs.store.attempts import Fenced, Held
from omni_jobs.store.database import auto, jsonb, row, rows, run
from omni_jobs.store.locks import LockedJob

COLUMNS = """source_id, job_id, position, uri, name, tasks, snapshot, sha256, size_bytes, medium, container, duration_s,
  pages, probe, gaps, speech, reuse_key, error"""


def of_job(db: Engine | Connection, job_id: str) -> list[dict[str, Any]]:
    with auto(db) as tx:
        return rows(tx, f"select {COLUMNS} from omni.sources where job_id = :job_id order by position", job_id=job_id)


def get(db: Engine, source_id: str) -> dict[str, Any] | None:
    with auto(db) as tx:
        return row(tx, f"select {COLUMNS} from omni.sources where source_id = :id", id=source_id)


def begin(db: Engine, unit: Held, source_id: str, *, key: str) -> dict[str, Any] | None:
    """A source whose prepare unit is held; where its snapshot is still to be taken, `key` is reserved for it."""
    with auto(db) as tx:
        return row(
            tx,
            f"""
            with source as materialized (
              select {COLUMNS} from omni.sources where source_id = :id
            ), reserved as (
              insert into omni.blobs (prefix, tenant_id, job_id, unit_id, generation, kind)
              select :key, j.tenant_id, j.job_id, :unit_id, :generation, 'source'
              from source s join omni.jobs j using (job_id) where s.snapshot is null on conflict (prefix) do nothing
            )
            select * from source
            """,
            id=source_id,
            key=key,
            unit_id=unit.unit_id,
            generation=unit.generation,
        )


def keep_snapshot(db: Engine, unit: Held, source_id: str, *, key: str, sha256: str, size_bytes: int) -> None:
    """Note where the bytes that will be answered lie: once, and by whoever holds the source's prepare unit.

    Raises:
        Fenced: another attempt has taken it over.
    """
    with auto(db) as tx:
        kept = run(
            tx,
            """
            with kept as (
              update omni.sources s set snapshot = :key, sha256 = :sha256, size_bytes = :size_bytes
              from omni.units u where s.source_id = :id and u.unit_id = :unit_id and u.generation = :generation
                and u.state in ('ready', 'running')
              returning 1
            )
            update omni.blobs set state = 'live', changed_at = now() from kept where prefix = :prefix
            """,
            key=key,
            sha256=sha256,
            size_bytes=size_bytes,
            id=source_id,
            unit_id=unit.unit_id,
            generation=unit.generation,
            prefix=key,
        )
    if not kept:
        raise Fenced(f"unit {unit.unit_id}: its snapshot is no longer wanted")


def forget_snapshot(db: Engine, unit: Held, source_id: str, *, key: str) -> None:
    """A snapshot that cannot be read back is garbage, and the next attempt takes another; by its holder alone."""
    with auto(db) as tx:
        run(
            tx,
            """
            with forgotten as (
              update omni.sources s set snapshot = null, sha256 = null, size_bytes = null
              from omni.units u where s.source_id = :id and s.snapshot = :key and u.unit_id = :unit_id
                and u.generation = :generation and u.state in ('ready', 'running')
              returning 1
            )
            update omni.blobs set state = 'garbage', changed_at = now() from forgotten where prefix = :key
            """,
            id=source_id,
            key=key,
            unit_id=unit.unit_id,
            generation=unit.generation,
        )


def describe(
    job: LockedJob,
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
    found = {
        "source_id": source_id,
        "medium": medium,
        "container": container,
        "duration_s": duration_s,
        "pages": pages,
        "tasks": tasks,
        "probe": probe,
        "gaps": gaps,
        "speech": speech,
        "reuse_key": reuse_key,
    }
    job.write(_describe, found)


def _describe(tx: Connection, found: list[dict[str, Any]]) -> None:
    run(
        tx,
        """
        update omni.sources s set medium = f.medium, container = f.container, duration_s = f.duration_s,
          pages = f.pages, tasks = f.tasks, probe = f.probe, gaps = f.gaps, speech = f.speech, reuse_key = f.reuse_key
        from jsonb_populate_recordset(null::omni.sources, :found) f where s.source_id = f.source_id
        """,
        found=jsonb(found),
    )


def refuse(tx: Connection, source_id: str, problem: Problem) -> None:
    """A source that cannot be answered; its job goes on with the others."""
    run(
        tx,
        "update omni.sources set error = :error where source_id = :id",
        error=jsonb(problem.as_json()),
        id=source_id,
    )
