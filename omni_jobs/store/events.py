"""What happened to a job, numbered without a hole, written in the transaction of what happened."""

from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.store.database import jsonb, rows, run


def record(tx: Connection, job_id: str, type: str, **data: Any) -> None:
    """Append one event. The job row is locked by this, so numbers follow commits."""
    run(
        tx,
        """
        with next as (update omni.jobs set event_seq = event_seq + 1 where job_id = :job_id returning event_seq)
        insert into omni.events (job_id, seq, type, data) select :job_id, event_seq, :type, :data from next
        """,
        job_id=job_id,
        type=type,
        data=jsonb(data),
    )


def since(db: Engine, job_id: str, seq: int = 0, limit: int = 500) -> list[dict[str, Any]]:
    """Events after number `seq`, in order: {seq, at, type, data}."""
    with db.connect() as tx:
        return rows(
            tx,
            """
            select seq, at, type, data from omni.events where job_id = :job_id and seq > :seq order by seq limit :limit
            """,
            job_id=job_id,
            seq=seq,
            limit=limit,
        )
