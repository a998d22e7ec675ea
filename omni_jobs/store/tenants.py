"""Tenants: whose job it is. The name comes from the settings or the key, never from a request."""

from sqlalchemy import Connection

from omni_jobs.store.database import run


def ensure(tx: Connection, tenant_id: str) -> None:
    run(tx, "insert into omni.tenants (tenant_id) values (:tenant_id) on conflict do nothing", tenant_id=tenant_id)
