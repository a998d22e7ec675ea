"""Attempts that end together share a commit, and none suffers for another."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, event

from omni_jobs.job import Outcome, Pool, UnitKind
from omni_jobs.store import claims, jobs, submissions, workers
from omni_jobs.store.attempts import Ending, Fenced
from omni_jobs.store.claims import Claimed
from omni_jobs.store.submissions import NewJob, NewSource
from omni_jobs.store.units import NewUnit
from workers.endings import Endings

pytestmark = pytest.mark.servers


@pytest.fixture
def endings(db: Engine) -> Iterator[Endings]:
    made = Endings(db)
    yield made
    made.close()


@pytest.fixture
def claimed(db: Engine) -> Callable[[int], list[Claimed]]:
    worker = workers.register(db, pool="cpu", host="h", pid=1, pid_started=1, version="t", backend=None)

    def make(count: int) -> list[Claimed]:
        for _ in range(count):
            submissions.insert(db, NewJob("acme", (NewSource("upload:a", "a"),), {}))
        return claims.claim(db, worker, Pool.CPU, count)

    return make


def done(unit: Claimed) -> Ending:
    return Ending(unit, Outcome.SUCCEEDED, {}, [NewUnit(UnitKind.SPAN, unit.source_id)])


def test_a_busy_process_shares_commits(db: Engine, endings: Endings, claimed: Any) -> None:
    units, commits = claimed(40), 0

    def count(_: Any) -> None:
        nonlocal commits
        commits += 1

    event.listen(db, "commit", count)
    with ThreadPoolExecutor(40) as threads:
        assert all(woken == {Pool.GPU} for woken in threads.map(lambda unit: endings.end(done(unit)), units))
    assert commits < 20
    assert claims.waiting(db) == {Pool.GPU: 40}


def test_one_that_cannot_be_written_costs_its_neighbours_nothing(db: Engine, endings: Endings, claimed: Any) -> None:
    units, together = claimed(9), threading.Barrier(9)

    def broken(*_: object) -> None:
        raise ValueError("no such column")

    def end(number: int) -> object:
        also = broken if number == 4 else None
        together.wait()
        try:
            return endings.end(Ending(units[number], Outcome.SUCCEEDED, {}, also=also))
        except Exception as error:
            return error

    with ThreadPoolExecutor(9) as threads:
        said = list(threads.map(end, range(9)))
    assert isinstance(said.pop(4), ValueError) and not any(isinstance(one, Exception) for one in said)


def test_a_fenced_one_is_told_so_and_the_others_are_taken(db: Engine, endings: Endings, claimed: Any) -> None:
    gone, kept = claimed(2)
    jobs.cancel(db, "acme", gone.job_id)
    assert endings.end(done(kept)) == {Pool.GPU}
    with pytest.raises(Fenced, match="cancelled"):
        endings.end(done(gone))
