"""What happened to a job, numbered without a hole, written in the transaction of what happened."""

from typing import Any

from sqlalchemy import Engine

from omni_jobs.store.database import auto, rows


def since(db: Engine, job_id: str, seq: int = 0, limit: int = 500) -> list[dict[str, Any]]:
    """Events after number `seq`, in order: {seq, at, type, data}."""
    with auto(db) as tx:
        return rows(
            tx,
            """
            select seq, at, type, data from omni.events where job_id = :job_id and seq > :seq order by seq limit :limit
            """,
            job_id=job_id,
            seq=seq,
            limit=limit,
        )
