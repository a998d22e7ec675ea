"""Tenants: whose job it is, and what share of the pools they have. A request never names one."""

from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs.store.database import auto, row, rows, run


def ensure(tx: Connection, tenant_id: str) -> None:
    run(tx, "insert into omni.tenants (tenant_id) values (:tenant_id) on conflict do nothing", tenant_id=tenant_id)


def update(
    db: Engine, tenant_id: str, *, weight: float | None = None, max_open_jobs: int | None = None
) -> dict[str, Any]:
    """Set a tenant's share; what is None stays. The tenant need not have submitted anything yet."""
    with db.begin() as tx:
        ensure(tx, tenant_id)
        found = row(
            tx,
            """
            update omni.tenants set weight = coalesce(:weight, weight),
              max_open_jobs = coalesce(cast(:max_open_jobs as integer), max_open_jobs)
            where tenant_id = :tenant_id returning tenant_id, weight, max_open_jobs
            """,
            tenant_id=tenant_id,
            weight=weight,
            max_open_jobs=max_open_jobs,
        )
    assert found is not None
    return found


def shares(db: Engine) -> list[dict[str, Any]]:
    """Every tenant with its weight, its limit and its open jobs."""
    with auto(db) as tx:
        return rows(
            tx,
            """
            select t.tenant_id, t.weight, t.max_open_jobs, (
              select count(*) from omni.jobs j where j.tenant_id = t.tenant_id and j.state in ('queued', 'running')
            ) as open_jobs
            from omni.tenants t order by t.tenant_id
            """,
        )
