"""Results: the rows behind the views, the artifacts, and which revision is the current one."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.errors import NotFound
from omni_jobs.store.database import auto, jsonb, row, rows, run
from omni_jobs.store.locks import LockedJob


def commit(
    job: LockedJob,
    *,
    generation: int,
    prefix: str,
    answered_by: dict[str, Any],
    artifacts: Sequence[Mapping[str, Any]],
    content: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
) -> None:
    """Make this generation the result of the job's revision, and the revision the current one.

    Args:
        artifacts: {name, format, key, media_type, size_bytes, sha256, source_id?}.
        content: source id -> table -> rows, less job, revision and source.
    """
    job.result_revision = job.revision
    whose = {"job_id": job.job_id, "revision": job.revision}
    made = {**whose, "generation": generation}
    tables: dict[str, list[dict[str, Any]]] = {
        "results": [{**made, "prefix": prefix, "answered_by": answered_by}],
        "artifacts": [{**made, "source_id": None, **one} for one in artifacts],
    }
    for source_id, of_source in content.items():
        for table, found in of_source.items():
            tables.setdefault(table, []).extend({**whose, **one, "source_id": source_id} for one in found)
    job.write(_insert, tables)


def _insert(tx: Connection, results: list[dict[str, list[dict[str, Any]]]]) -> None:
    given: dict[str, list[dict[str, Any]]] = {}
    for tables in results:
        for table, found in tables.items():
            given.setdefault(table, []).extend(found)
    inserts = [
        f"{table} as (insert into omni.{table} ({columns}) "
        f"select {columns} from jsonb_populate_recordset(null::omni.{table}, :{table}))"
        for table, found in given.items()
        if found
        for columns in [", ".join(found[0])]
    ]
    run(tx, f"with {', '.join(inserts)} select 1", **{table: jsonb(found) for table, found in given.items() if found})


def artifacts(db: Engine, tenant_id: str, job_id: str) -> list[dict[str, Any]]:
    """Artifacts of the current revision: {name, format, key, media_type, size_bytes, sha256}."""
    with auto(db) as tx:
        return rows(
            tx,
            """
            select a.name, a.format, a.key, a.media_type, a.size_bytes, a.sha256 from omni.artifacts a
            join omni.jobs j on j.job_id = a.job_id and j.result_revision = a.revision
            where j.job_id = :job_id and j.tenant_id = :tenant_id order by a.name
            """,
            job_id=job_id,
            tenant_id=tenant_id,
        )


def artifact(db: Engine, tenant_id: str, job_id: str, format: str) -> dict[str, Any]:
    """The artifact of one format.

    Raises:
        NotFound: the job has no result yet, or none in this format.
    """
    found = artifacts(db, tenant_id, job_id)
    for one in found:
        if one["format"] == format:
            return one
    has = ", ".join(sorted({one["format"] for one in found})) or "no result yet"
    raise NotFound(f"job {job_id} has no {format}; it has: {has}")


def answered_by(db: Engine, job_id: str) -> dict[str, Any] | None:
    with auto(db) as tx:
        found = row(
            tx,
            """
            select r.answered_by from omni.results r join omni.jobs j on j.job_id = r.job_id
              and j.result_revision = r.revision where r.job_id = :id
            """,
            id=job_id,
        )
    return found["answered_by"] if found else None
