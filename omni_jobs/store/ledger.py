"""What watchers have seen: one row for each (watch, object, version), so that each becomes one job."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.store import tenants
from omni_jobs.store.database import new_id, row, rows, run


def see(db: Engine, *, tenant_id: str, watch: str, object: str, version: str, size_bytes: int) -> str | None:
    """Enter one version of an object; its ledger id, or None when it has been dealt with."""
    with db.begin() as tx:
        tenants.ensure(tx, tenant_id)
        run(
            tx,
            """
            insert into omni.ledger (ledger_id, tenant_id, watch, object, version, size_bytes)
            values (:id, :tenant_id, :watch, :object, :version, :size_bytes) on conflict do nothing
            """,
            id=new_id(),
            tenant_id=tenant_id,
            watch=watch,
            object=object,
            version=version,
            size_bytes=size_bytes,
        )
        found = row(
            tx,
            """
            select ledger_id, state from omni.ledger
            where tenant_id = :tenant_id and watch = :watch and object = :object and version = :version
            """,
            tenant_id=tenant_id,
            watch=watch,
            object=object,
            version=version,
        )
    return str(found["ledger_id"]) if found and found["state"] == "seen" else None


def known(db: Engine, *, tenant_id: str, watch: str) -> set[tuple[str, str]]:
    """(object, version) of everything dealt with, to skip it without a statement each."""
    with db.connect() as tx:
        found = rows(
            tx,
            """
            select object, version from omni.ledger
            where tenant_id = :tenant_id and watch = :watch and state <> 'seen'
            """,
            tenant_id=tenant_id,
            watch=watch,
        )
    return {(one["object"], one["version"]) for one in found}


def take(tx: Connection, ledger_id: str, job_id: str) -> bool:
    """Bind a ledger row to its job, in the transaction that makes the job. False: somebody was faster."""
    return bool(
        run(
            tx,
            """
            update omni.ledger set state = 'taken', job_id = :job_id, changed_at = now()
            where ledger_id = :ledger_id and state = 'seen'
            """,
            ledger_id=ledger_id,
            job_id=job_id,
        )
    )


def mark(db: Engine, ledger_id: str, state: str, reason: str | None = None) -> None:
    """Note that an object was refused, or that its results lie beside it (`delivered`)."""
    with db.begin() as tx:
        run(
            tx,
            "update omni.ledger set state = :state, reason = :reason, changed_at = now() where ledger_id = :id",
            state=state,
            reason=reason,
            id=ledger_id,
        )


def again(db: Engine, job_id: str) -> None:
    """A job has begun a new revision: its results are to be copied anew, unless a later version has its own."""
    with db.begin() as tx:
        run(
            tx,
            """
            update omni.ledger l set state = 'taken', reason = null, changed_at = now()
            where l.job_id = :job_id and l.state = 'delivered' and not exists (
              select 1 from omni.ledger n where n.tenant_id = l.tenant_id and n.watch = l.watch
                and n.object = l.object and n.ledger_id > l.ledger_id)
            """,
            job_id=job_id,
        )


def finished(
    db: Engine, *, tenant_id: str, watch: str, but_not: Iterable[str] = (), limit: int = 100
) -> list[dict[str, Any]]:
    """Taken rows whose job has ended and whose results have not been copied: {ledger_id, object, job_id, state}.

    Args:
        but_not: ledger ids to leave out.
    """
    with db.connect() as tx:
        return rows(
            tx,
            """
            select l.ledger_id, l.object, l.job_id, j.state, j.error from omni.ledger l join omni.jobs j using (job_id)
            where l.tenant_id = :tenant_id and l.watch = :watch and l.state = 'taken'
              and j.state not in ('queued', 'running') and l.ledger_id <> all(cast(:but_not as uuid[]))
            order by l.ledger_id limit :limit
            """,
            tenant_id=tenant_id,
            watch=watch,
            but_not=list(but_not),
            limit=limit,
        )
