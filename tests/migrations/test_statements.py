"""An old and a new version side by side: what the version before says to the database still does what it did.

Each `statements_NNNN.json` holds the store's statements of the version whose newest migration was NNNN.
"""

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb
from sqlalchemy import Engine

from omni_jobs.job import JobState, Pool, UnitKind
from omni_jobs.store import attempts, claims, jobs, reaper, results, schema, submissions, workers
from omni_jobs.store.submissions import NewJob, NewSource
from omni_jobs.store.units import NewUnit

pytestmark = pytest.mark.servers

RECORDED = sorted(Path(__file__).parent.glob("statements_*.json"))


def value(plain: Any) -> Any:
    """An argument as the driver wants it."""
    match plain:
        case {"type": "jsonb", "value": found}:
            return Jsonb(found)
        case {"type": "uuid", "value": found}:
            return UUID(found)
        case {"type": "datetime", "value": found}:
            return datetime.fromisoformat(found)
        case dict():
            return {name: value(one) for name, one in plain.items()}
        case list():
            return [value(one) for one in plain]
        case _:
            return plain


def transactions(path: Path) -> Iterator[list[tuple[str, list[Any]]]]:
    said: list[tuple[str, list[Any]]] = []
    for one in json.loads(path.read_text()):
        if one["sql"] == "commit":
            yield said
            said = []
        else:
            said.append((one["sql"], value(one["arguments"])))
    yield said


def replay(url: str, path: Path, between: Callable[[int], None] = lambda number: None) -> int:
    """Say it all again; returns how many statements there were."""
    count = 0
    with psycopg.connect(url) as connection:
        for number, transaction in enumerate(transactions(path)):
            for sql, arguments in transaction:
                for one in arguments:
                    connection.execute(sql.encode(), one)
                    count += 1
            connection.commit()
            between(number)
    return count


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


def work(db: Engine, tenant: str) -> str:
    """A job of the new version from submit to result."""
    crew = {
        pool: workers.register(db, pool=pool.value, host="n", pid=2, pid_started=2, version="new", backend=None)
        for pool in Pool
    }
    job, _ = submissions.insert(db, NewJob(tenant, (NewSource("upload:n", "n"),), {}))
    while jobs.get(db, tenant, job)["state"] in ("queued", "running"):
        for pool in Pool:
            for unit in claims.claim(db, crew[pool], pool, 100):
                if unit.job_id != job:
                    attempts.release(db, unit)
                elif unit.kind is UnitKind.PREPARE:
                    attempts.finish(db, unit, {}, follow=[NewUnit(UnitKind.SPAN, unit.source_id)])
                elif unit.kind is UnitKind.DELIVER:
                    attempts.finish(
                        db,
                        unit,
                        {},
                        also=lambda _, held: results.commit(
                            held, generation=1, prefix="n/", answered_by={}, artifacts=[], content={}
                        ),
                    )
                else:
                    attempts.finish(db, unit, {"segments": []})
    for worker in crew.values():
        workers.leave(db, worker, {})
    return job


def test_there_is_a_record_of_the_version_before() -> None:
    assert [path.stem for path in RECORDED][-1] == f"statements_{int(schema.head()) - 1:04}"


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_old_statements_do_on_the_new_schema_what_they_did(database_url: str, db: Engine, path: Path) -> None:
    states: set[str] = set()

    def beside(number: int) -> None:
        # The new version works between the transactions of the old one, on the same tables.
        if number % 12 == 5:
            states.add(jobs.get(db, "new", work(db, "new"))["state"])

    assert replay(database_url, path, beside) > 60
    assert states == {"succeeded"}
    found = query(database_url, "select state from omni.jobs where tenant_id = 'acme' order by job_id")
    assert found == [(JobState.PARTIAL.value,), (JobState.CANCELLED.value,)]
    kinds = query(database_url, "select distinct tenant_id from omni.units")
    assert sorted(kinds) == [("acme",), ("new",)]
    assert query(database_url, "select text from omni_v1.transcript_segments") == [("hi",)]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_what_the_old_version_began_the_new_one_ends(database_url: str, db: Engine, path: Path) -> None:
    """Every prefix of the old statements leaves something that the new code brings to an end."""
    whole = list(transactions(path))
    with psycopg.connect(database_url) as connection:
        for transaction in whole[: len(whole) // 3]:
            for sql, arguments in transaction:
                for one in arguments:
                    connection.execute(sql.encode(), one)
            connection.commit()
    query(database_url, "update omni.workers set state = 'gone' returning 1")
    reaper.reap(db)
    worker = workers.register(db, pool="cpu", host="n", pid=2, pid_started=2, version="new", backend=None)
    for _ in range(20):
        for pool in Pool:
            for unit in claims.claim(db, worker, pool, 10):
                attempts.finish(db, unit, {"segments": []})
    (state,) = query(database_url, "select state from omni.jobs where tenant_id = 'acme' order by job_id limit 1")[0]
    assert state == "succeeded"


def test_the_version_before_may_run_on_this_schema(db: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "head", lambda: RECORDED[-1].stem.rpartition("_")[2])
    monkeypatch.setattr(schema, "known", lambda: {schema.head()})
    schema.require(db)
    monkeypatch.setattr(schema, "head", lambda: "0000")
    with pytest.raises(Exception, match=re.escape("newer than this version knows")):
        schema.require(db)
