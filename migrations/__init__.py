"""Alembic migrations. The views of `omni_v1` stand in one file of record, re-created by each migration."""

from pathlib import Path


def execute_file(name: str) -> None:
    """Run one SQL file of this folder inside the current migration."""
    from alembic import op

    # exec_driver_sql: the text goes to the server as it is, colons and percent signs included.
    driver = op.get_bind().connection.driver_connection
    assert driver is not None
    driver.execute((Path(__file__).parent / name).read_bytes())
