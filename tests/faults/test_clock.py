"""Row 26: the clocks of the workers are an hour off and jump; leases are measured by the database alone."""

import ast
import re
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

import omni_jobs
import workers as workers_package
from omni_jobs.errors import ErrorType, Problem
from omni_jobs.job import Pool, UnitKind
from omni_jobs.store import attempts, claims, jobs, objects, pools, reaper, submissions, workers
from omni_jobs.store.submissions import NewJob, NewSource
from omni_jobs.store.units import NewUnit
from tests.faults.cluster import Killer, cluster
from tests.faults.fake import Script
from tests.faults.report import Report
from tests.statements import statements

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(900)]

HOUR_S = 3600.0


def test_clocks_that_jump_by_an_hour_change_nothing(scale: float, report: Report) -> None:
    """Row 1 in small: as many kills for each job, and nothing lost, doubled, or taken from who still holds it."""
    with cluster() as made:
        clocks = (HOUR_S, -HOUR_S)
        made.start("maintain", fake_clock_s=HOUR_S)
        crew = [made.start(pool, fake_clock_s=by_s) for pool in ("cpu", "gpu", "io") for by_s in clocks]
        scripts = [Script(f"job-{n}", 1 + n % 3, prepare_s=0.05, span_s=0.2) for n in range(round(300 * scale))]
        ids = made.submit(scripts)
        assert made.wait(ids, timeout_s=120) == {"succeeded": len(ids)}
        # Nobody died: so nothing may have been taken from anybody.
        quiet = made.sql("select count(*) as n from omni.attempts where outcome <> 'succeeded'")[0]["n"]
        killer = Killer(made, ["cpu", "gpu", "io"], every_s=0.35, most=max(4, round(60 * scale))).start()
        more = [Script(f"more-{n}", 1 + n % 3, prepare_s=0.1, span_s=0.3) for n in range(round(300 * scale))]
        ids, scripts = ids + made.submit(more), scripts + more
        killer.done(60)
        states, kills = made.wait(ids, timeout_s=120), killer.stop()
        report.say(workers=len(crew), jobs=len(ids), **states, kills=kills.total, lost_before_a_kill=quiet)
        assert (states, quiet) == ({"succeeded": len(ids)}, 0)
        made.check(dict(zip(ids, scripts, strict=True)))


@pytest.fixture
def sent() -> Iterator[list[tuple[str, Any]]]:
    """Every statement that goes to the server, with its parameters."""
    found: list[tuple[str, Any]] = []

    with statements(lambda sql, parameters: found.append((sql, parameters))):
        yield found


def test_no_statement_brings_a_time_of_our_own(db: Engine, sent: list[tuple[str, Any]], report: Report) -> None:
    """A whole life with leases, losses, back-off and garbage: parameters are lengths of time, never a time of day."""
    source = (NewSource("upload:x.wav", "x.wav", "k", "0" * 64, 10),)
    for _ in range(3):
        submissions.insert(db, NewJob("acme", source, {"summary": False}))
    worker = workers.register(db, pool="cpu", host="here", pid=1, pid_started=1, version="t", backend=None)
    first, second, third = claims.claim(db, worker, Pool.CPU, 3)
    workers.beat(db, worker, {first.unit_id: (1, 0.5)}, {"n": 1.0})
    attempts.finish(db, first, {}, follow=[NewUnit(UnitKind.SPAN, first.source_id)])
    attempts.fail(db, second, Problem(ErrorType.INTERNAL, "x", retryable=True))
    reaper.hand_back(db, worker, [], 0.0)
    attempts.release(db, third, delay_s=3.0)
    claims.claim(db, worker, Pool.GPU, 1)
    workers.forget(db, -1.0)
    reaper.reap(db)
    pools.regulate(db, ready_s=1.0, ready_bytes=1)
    pools.explain(db, 30.0)
    workers.live(db, 30.0)
    objects.condemn(db)
    objects.garbage(db)
    jobs.cancel(db, "acme", third.job_id)
    jobs.expire(db, 1.0)
    times = [one for one in sent if any(_is_time(value) for value in _values(one[1]))]
    report.say(statements=len(sent), with_a_time=len(times))
    assert len(sent) > 30 and times == []


def _values(parameters: Any) -> Iterator[Any]:
    match parameters:
        case dict():
            for value in parameters.values():
                yield from _values(value)
        case list() | tuple():
            for value in parameters:
                yield from _values(value)
        case _:
            yield getattr(parameters, "obj", parameters)  # what a Jsonb holds


def _is_time(value: Any) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value > 1e9  # seconds since 1970
    if isinstance(value, str):
        # `infinity`, or what a row said, is no clock of ours; an ISO time would be.
        return re.match(r"\d{4}-\d\d-\d\d[T ]\d\d:", value) is not None
    return isinstance(value, date | datetime | time_of_day) and not isinstance(value, timedelta)


# Wall clocks; `time.monotonic` measures what it says.
CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "time"}


def calls_of_clocks(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if call in CLOCKS or call.endswith(".datetime.now")]


def test_neither_the_store_nor_a_worker_asks_the_wall_clock() -> None:
    store = Path(omni_jobs.__file__).parent / "store"
    handlers = Path(workers_package.__file__).parent
    files = [*store.glob("*.py"), *handlers.glob("*.py")]
    assert len(files) > 30
    assert {path.name: found for path in files if (found := calls_of_clocks(path))} == {}
