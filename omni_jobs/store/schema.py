"""The schema's version: what the database has, what this code needs, and how it gets there."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, NullPool, create_engine, text

import migrations
from omni_jobs.errors import Refused
from omni_jobs.store.database import open_database

Backup = Callable[[str], None]
# Two starters at once: the second waits here and then finds the work done.
LOCK_KEY = 0x6F6D6E69


def head() -> str:
    """The version this code is written for."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None
    return found


def known() -> set[str]:
    """Every version this code has a migration for."""
    return {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def current(db: Engine) -> str | None:
    """The version the database has; None before the first migration."""
    with db.connect() as tx:
        if tx.execute(text("select to_regclass('omni.schema_version')")).scalar() is None:
            return None
        return tx.execute(text("select version_num from omni.schema_version")).scalar()


def require(db: Engine) -> None:
    """Refuse to serve on a schema this code is not written for, nor said to go with (`omni.compatible`).

    Raises:
        Refused: the database is behind (names the command) or ahead of this code.
    """
    have, need = current(db), head()
    if have == need:
        return
    if have is None or have in known():
        raise Refused(f"the database's schema is {have or 'empty'}, this version needs {need}: run `omni-jobs migrate`")
    # During a deployment the version before goes on working, and may be restarted.
    with db.connect() as tx:
        if tx.execute(text("select 1 from omni.compatible where revision = :need"), {"need": need}).scalar():
            return
    raise Refused(f"the database's schema {have} is newer than this version knows ({need}): update omni-jobs")


def upgrade(url: str, *, backup: Backup | None = None, to: str = "head") -> str:
    """Bring the database to `to`; calls `backup(version)` first when there is something to lose.

    Returns:
        The version reached.
    """
    return _migrate(url, backup, lambda config: command.upgrade(config, to))


def downgrade(url: str, to: str) -> str:
    """Go back to an older version; `base` removes everything."""
    return _migrate(url, None, lambda config: command.downgrade(config, to))


def _migrate(url: str, backup: Backup | None, action: Callable[[Config], None]) -> str:
    pooled = open_database(url)
    before = current(pooled)
    pooled.dispose()
    if backup is not None and before is not None and before != head():
        backup(before)
    config = _config()
    engine = create_engine(pooled.url, poolclass=NullPool)
    with engine.connect() as holder, engine.connect() as connection:
        holder.execute(text("select pg_advisory_lock(:key)"), {"key": LOCK_KEY})
        config.attributes["connection"] = connection
        action(config)
    reached = current(engine)
    engine.dispose()
    return reached or "base"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    return config


def give_reader(db: Engine, password: str) -> None:
    """Let the read-only role log in with this password."""
    from psycopg import sql

    with db.begin() as tx:
        driver = tx.connection.driver_connection
        assert driver is not None
        driver.execute(sql.SQL("alter role omni_read login password {}").format(sql.Literal(password)))
