"""Results: the rows behind the views, the artifacts, and which revision is the current one."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.errors import NotFound
from omni_jobs.store.database import auto, jsonb, row, rows, run
from omni_jobs.store.locks import LockedJob


def commit(
    tx: Connection,
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
    given: dict[str, list[Mapping[str, Any]]] = {"artifacts": [{"source_id": None, **one} for one in artifacts]}
    for source_id, tables in content.items():
        for table, found in tables.items():
            given.setdefault(table, []).extend({**one, "source_id": source_id} for one in found)
    inserts = [
        f"{table} as (insert into omni.{table} (job_id, revision{more}, {columns}) "
        f"select cast(:job_id as uuid), :revision{values}, {columns} "
        f"from jsonb_populate_recordset(null::omni.{table}, :{table}))"
        for table, found in given.items()
        if found
        for columns in [", ".join(found[0])]
        for more, values in [(", generation", ", :generation") if table == "artifacts" else ("", "")]
    ]
    run(
        tx,
        f"""
        with current as (
          update omni.jobs set result_revision = :revision where job_id = :job_id
        ){"".join(", " + insert for insert in inserts)}
        insert into omni.results (job_id, revision, generation, prefix, answered_by)
        values (:job_id, :revision, :generation, :prefix, :answered_by)
        """,
        job_id=job.job_id,
        revision=job.revision,
        generation=generation,
        prefix=prefix,
        answered_by=jsonb(answered_by),
        **{table: jsonb(found) for table, found in given.items() if found},
    )


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
