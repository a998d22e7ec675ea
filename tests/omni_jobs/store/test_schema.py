"""Migrations up and down, and the moves the database allows."""

from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError

from omni_jobs.errors import Refused
from omni_jobs.job import JOB_MOVES, UNIT_MOVES, JobState, UnitState
from omni_jobs.store import open_database, schema

pytestmark = pytest.mark.servers


def test_migrations_go_down_to_nothing_and_up_again(database_url: str) -> None:
    assert schema.downgrade(database_url, "base") == "base"
    db = open_database(database_url)
    with db.connect() as tx:
        left = tx.execute(text("select count(*) from pg_tables where schemaname in ('omni', 'omni_v1')")).scalar()
    assert left == 1  # the version table itself
    with pytest.raises(Refused, match="omni-jobs migrate"):
        schema.require(db)
    assert schema.upgrade(database_url) == schema.head()
    schema.require(db)
    db.dispose()


def test_a_dump_is_asked_for_only_when_there_is_something_behind(database_url: str) -> None:
    asked: list[str] = []
    schema.upgrade(database_url, backup=asked.append)
    assert asked == []


def test_a_database_from_the_future_is_refused(db: Engine) -> None:
    with db.begin() as tx:
        tx.execute(text("update omni.schema_version set version_num = '9999'"))
    with pytest.raises(Refused, match="newer than this version"):
        schema.require(db)


@pytest.mark.parametrize(
    ("table", "states", "moves"), [("jobs", JobState, JOB_MOVES), ("units", UnitState, UNIT_MOVES)]
)
def test_the_database_allows_the_moves_of_the_code_and_no_others(
    db: Engine, make_job: Any, table: str, states: Any, moves: Any
) -> None:
    make_job()
    for before in states:
        for after in states:
            with db.connect() as tx:
                tx.execute(text(f"alter table omni.{table} disable trigger user"))
                tx.execute(text(f"update omni.{table} set state = '{before.value}'"))
                tx.execute(text(f"alter table omni.{table} enable trigger user"))
                allowed = before == after or (before, after) in moves
                try:
                    tx.execute(text(f"update omni.{table} set state = '{after.value}'"))
                    moved = True
                except IntegrityError:
                    moved = False
                assert moved == allowed, f"{table}: {before} -> {after}"
                tx.rollback()
