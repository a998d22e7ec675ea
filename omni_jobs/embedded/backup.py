"""A dump of the embedded database, taken before its schema changes."""

import logging
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from omni_jobs.embedded.binaries import PostgresBinaries, system_dump
from omni_jobs.embedded.home import Home
from omni_jobs.embedded.server import PLAIN_ENV
from omni_jobs.errors import Refused

log = logging.getLogger(__name__)

HAS_TABLES = """
select exists (
    select from pg_class
    join pg_namespace on pg_namespace.oid = relnamespace
    where relkind = 'r' and nspname not in ('pg_catalog', 'information_schema')
)
"""


def backup_of(url: str, home: Home, binaries: PostgresBinaries) -> Callable[[str], None]:
    """What the migration calls, with the revision the database is at, before it changes anything."""

    def backup(label: str) -> None:
        if not _has_tables(url):
            log.info("backup.skipped the database is empty")
            return
        program = binaries.folder / "pg_dump" if binaries.has_dump else system_dump()
        if program is None:
            raise Refused("the schema must be migrated, and no pg_dump was found to save it first: install one")
        path = dump(program, url, home.backups / _file_name(label))
        log.info("backup.written path=%s bytes=%d", path, path.stat().st_size)

    return backup


def dump(program: Path, url: str, path: Path) -> Path:
    """Writes a dump in pg_restore's custom format; the file gets its name when it is whole."""
    draft = path.with_suffix(".part")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    # In the environment, because a command line is everybody's to read.
    at = conninfo_to_dict(url)
    names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password", "PGDATABASE": "dbname"}
    env = {**PLAIN_ENV, **{variable: str(at[name]) for variable, name in names.items() if at.get(name)}}
    with os.fdopen(descriptor, "wb") as file:
        done = subprocess.run(
            [program, "--format=custom"], env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE
        )
    if done.returncode != 0:
        draft.unlink()
        raise Refused(f"pg_dump failed, so nothing was migrated: {done.stderr.decode(errors='replace').strip()}")
    draft.rename(path)
    return path


def _has_tables(url: str) -> bool:
    with psycopg.connect(url, connect_timeout=5) as connection:
        row = connection.execute(HAS_TABLES).fetchone()
    return bool(row and row[0])


def _file_name(label: str) -> str:
    kept = "".join(letter for letter in label if letter.isalnum() or letter in "-_")[:40]
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{kept or 'empty'}.dump"
