"""What the supervisor asks of the database: its schema at the head, and whether work is open."""

from collections.abc import Callable

import psycopg

OPEN_JOBS = "select exists (select from omni.jobs where state in ('queued', 'running'))"


def upgrade_schema(url: str, backup: Callable[[str], None]) -> object:
    # Imported here: alembic and the tables are needed once, and not by those who bring their own database.
    from omni_jobs.store import schema

    return schema.upgrade(url, backup=backup)


def has_open_jobs(url: str) -> bool:
    """Whether a job is queued or running; a database that cannot say has none."""
    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            row = connection.execute(OPEN_JOBS).fetchone()
    except psycopg.Error:
        return False
    return bool(row and row[0])
