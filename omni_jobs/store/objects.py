"""The objects we own: a row for each prefix, written before the first object below it is put.

`writing -> live -> garbage -> dropped`. So whatever lies in the object store is known here: an attempt that died
leaves a prefix that nobody will make live, and the collector finds it without listing the store.
"""

from typing import Any

from sqlalchemy import Engine

from omni_jobs.store.database import auto, rows, run

# A process that was frozen while it put may wake up later: what was dropped is looked at once more.
AGAIN_S = 3600.0
# An upload whose job never came.
UPLOAD_S = 24 * 3600.0


def reserve(db: Engine, *, prefix: str, tenant_id: str, job_id: str) -> None:
    """Say that a source will be put at a key, by an upload. An attempt says so in `sources.begin`."""
    with auto(db) as tx:
        run(
            tx,
            """
            insert into omni.blobs (prefix, tenant_id, job_id, kind) values (:prefix, :tenant_id, :job_id, 'source')
            on conflict (prefix) do nothing
            """,
            prefix=prefix,
            tenant_id=tenant_id,
            job_id=job_id,
        )


def condemn(db: Engine) -> int:
    """Mark as garbage what no attempt can make live any more; returns how many prefixes."""
    with auto(db) as tx:
        return run(
            tx,
            """
            with lost as (
              select b.prefix from omni.blobs b left join omni.units u on u.unit_id = b.unit_id
              where b.state = 'writing' and case
                when b.unit_id is null then b.changed_at < now() - make_interval(secs => :upload_s)
                else u.unit_id is null or u.generation <> b.generation or u.state in ('done', 'dead') end
              limit 1000 for update of b skip locked
            )
            update omni.blobs b set state = 'garbage', changed_at = now() from lost where b.prefix = lost.prefix
            """,
            upload_s=UPLOAD_S,
        )


def release_sources(db: Engine) -> int:
    """Mark the snapshots of ended jobs as garbage, for who keeps references only; returns how many."""
    with auto(db) as tx:
        return run(
            tx,
            """
            update omni.blobs b set state = 'garbage', changed_at = now() from omni.jobs j
            where b.kind = 'source' and b.state = 'live' and j.job_id = b.job_id and j.finished_at is not null
            """,
        )


def garbage(db: Engine, limit: int = 200) -> list[dict[str, Any]]:
    """Prefixes to delete, the oldest first: {prefix, again}; `again` ones were deleted before."""
    with auto(db) as tx:
        return rows(
            tx,
            """
            select prefix, state = 'dropped' as again from omni.blobs
            where state = 'garbage' or (state = 'dropped' and changed_at < now() - make_interval(secs => :again_s))
            order by changed_at limit :limit
            """,
            again_s=AGAIN_S,
            limit=limit,
        )


def dropped(db: Engine, prefixes: list[str]) -> None:
    """Their objects are deleted. A row is forgotten when it has been deleted twice."""
    with auto(db) as tx:
        run(
            tx,
            """
            with twice as (
              delete from omni.blobs where prefix = any(cast(:prefixes as text[])) and state = 'dropped'
            )
            update omni.blobs set state = 'dropped', changed_at = now()
            where prefix = any(cast(:prefixes as text[])) and state = 'garbage'
            """,
            prefixes=prefixes,
        )
