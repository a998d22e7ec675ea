"""Results: the rows behind the views, the artifacts, and which revision is the current one."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.errors import NotFound
from omni_jobs.store.database import jsonb, row, rows, run, run_many, storable

JSON_COLUMNS = frozenset({"words", "on_screen", "evidence", "rows"})
TABLES = ("segments", "captions", "pages", "blocks", "coverage", "summaries")


def commit(
    tx: Connection,
    job: dict[str, Any],
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
    job_id, revision = job["job_id"], job["revision"]
    for table in (*TABLES, "artifacts", "results"):
        run(
            tx,
            f"delete from omni.{table} where job_id = :job_id and revision = :revision",
            job_id=job_id,
            revision=revision,
        )
    run(
        tx,
        """
        insert into omni.results (job_id, revision, generation, prefix, answered_by)
        values (:job_id, :revision, :generation, :prefix, :answered_by)
        """,
        job_id=job_id,
        revision=revision,
        generation=generation,
        prefix=prefix,
        answered_by=jsonb(answered_by),
    )
    key = {"job_id": job_id, "revision": revision}
    _insert(tx, "artifacts", [{"source_id": None, **one, **key, "generation": generation} for one in artifacts])
    for source_id, tables in content.items():
        for table, found in tables.items():
            _insert(tx, table, [{**one, **key, "source_id": source_id} for one in found])
    run(tx, "update omni.jobs set result_revision = :revision where job_id = :job_id", revision=revision, job_id=job_id)


def _insert(tx: Connection, table: str, found: list[dict[str, Any]]) -> None:
    if not found:
        return
    columns = list(found[0])
    run_many(
        tx,
        f"insert into omni.{table} ({', '.join(columns)}) values ({', '.join(':' + name for name in columns)})",
        [{name: _value(name, value) for name, value in one.items()} for one in found],
    )


def _value(name: str, value: Any) -> Any:
    if name in JSON_COLUMNS:
        return jsonb(value) if value is not None else None
    return storable(value)


def artifacts(db: Engine, tenant_id: str, job_id: str) -> list[dict[str, Any]]:
    """Artifacts of the current revision: {name, format, key, media_type, size_bytes, sha256}."""
    with db.connect() as tx:
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


def live_prefixes(db: Engine, job_id: str) -> list[str]:
    """Prefixes of the generations that rows point to; everything else of a job's results is garbage."""
    with db.connect() as tx:
        return [one["prefix"] for one in rows(tx, "select prefix from omni.results where job_id = :id", id=job_id)]


def answered_by(db: Engine, job_id: str) -> dict[str, Any] | None:
    with db.connect() as tx:
        found = row(
            tx,
            """
            select r.answered_by from omni.results r join omni.jobs j on j.job_id = r.job_id
              and j.result_revision = r.revision where r.job_id = :id
            """,
            id=job_id,
        )
    return found["answered_by"] if found else None
