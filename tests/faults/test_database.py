"""Row 6: the database is killed, again and again, and the line breaks after a commit."""

import signal
import time

import pytest

from tests.faults.cluster import Cluster, cluster, signal_to
from tests.faults.fake import Script
from tests.faults.proxy import Wire
from tests.faults.report import Report

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(900)]


def start_four(made: Cluster) -> None:
    made.start("maintain")
    for pool in ("cpu", "gpu", "gpu", "io"):
        made.start(pool)


def test_a_killed_database_loses_nothing_and_ends_no_worker(scale: float, report: Report) -> None:
    kills, jobs = max(2, round(10 * scale)), max(40, round(400 * scale))
    with cluster() as made:
        start_four(made)
        scripts = [Script(f"job-{n}", spans=1 + n % 3, prepare_s=0.1, span_s=0.3) for n in range(jobs)]
        ids = made.submit(scripts)
        hit, back_s = 0, []
        for _ in range(kills):
            made.until(lambda: _running(made), 60, "nothing runs")
            hit += _running(made)
            made.kill(made.postgres)
            back_s.append(made.revive(made.postgres))
            if made.open_jobs() < 10:
                more = [Script(f"more-{len(ids) + n}", prepare_s=0.1, span_s=0.3) for n in range(20)]
                scripts, ids = [*scripts, *more], [*ids, *made.submit(more)]
        states = made.wait(ids, timeout_s=180)
        outcomes = _outcomes(made)
        starts = sorted(worker.starts for worker in made.workers)
        report.say(kills=kills, running_when_killed=hit, jobs=len(ids), **states, slowest_start_s=max(back_s))
        report.say(attempts=outcomes, worker_starts=starts)
        assert states == {"succeeded": len(ids)}
        made.check(dict(zip(ids, scripts, strict=True)))
        assert starts == [1] * 5
        assert set(outcomes) <= {"succeeded", "released"}, outcomes


def test_an_outage_of_many_leases_costs_no_attempt(report: Report) -> None:
    """Nobody can beat meanwhile: silence is a fault only where it would have been heard."""
    with cluster() as made:
        start_four(made)
        scripts = [Script(f"job-{n}", spans=2, prepare_s=0.3, span_s=1.0) for n in range(12)]
        ids = made.submit(scripts)
        made.until(lambda: _running(made) >= 4, 60, "nothing runs")
        hit = _running(made)
        made.kill(made.postgres)
        time.sleep(3 * made.settings.lease_s)
        # `maintain` is the first to be back, and the others are slow.
        workers = [worker for worker in made.workers if worker.pool != "maintain"]
        for worker in workers:
            signal_to(worker.pid, signal.SIGSTOP)
        made.revive(made.postgres)
        made.until(lambda: _maintained(made), 30, "nobody maintains")
        time.sleep(made.settings.lease_s / 4)
        for worker in workers:
            signal_to(worker.pid, signal.SIGCONT)
        states = made.wait(ids, timeout_s=120)
        outcomes = _outcomes(made)
        report.say(running_when_killed=hit, jobs=len(ids), **states, attempts=outcomes)
        assert states == {"succeeded": 12}
        made.check(dict(zip(ids, scripts, strict=True)))
        assert set(outcomes) <= {"succeeded", "released"}, outcomes
        assert made.sql("select 1 from omni.units where lost + released > 0") == []
        assert {worker.starts for worker in made.workers} == {1}


def test_a_commit_that_got_no_answer_is_settled_by_repeating_it(report: Report) -> None:
    """The server has it, the line breaks before anybody hears of it; whoever asked says the same again."""
    with cluster() as made:
        wire = Wire(made.postgres.url, every=3, most=12)
        for pool in ("maintain", "cpu", "gpu", "io"):
            made.start(pool, **({} if pool == "maintain" else {"omni_database_url": wire.url}))
        scripts = [Script(f"job-{n}", spans=2) for n in range(8)]
        ids = made.submit(scripts)
        states = made.wait(ids, timeout_s=90)
        outcomes = _outcomes(made)
        repeated = made.logs(characters=1_000_000).count("database.away")
        wire.close()
        report.say(jobs=len(ids), **states, commits_without_answer=wire.cut, repeated=repeated, attempts=outcomes)
        assert states == {"succeeded": 8} and wire.cut == 12 and repeated > 0
        made.check(dict(zip(ids, scripts, strict=True)))
        assert set(outcomes) <= {"succeeded", "released"}, outcomes
        assert {worker.starts for worker in made.workers} == {1}


def _running(made: Cluster) -> int:
    return made.sql("select count(*) as n from omni.units where state = 'running'")[0]["n"]


def _maintained(made: Cluster) -> bool:
    query = "select 1 from omni.workers where pool = 'maintain' and heartbeat_at > now() - interval '0.5 s'"
    return bool(made.sql(query))


def _outcomes(made: Cluster) -> dict[str, int]:
    found = made.sql("select coalesce(outcome, 'open') as outcome, count(*) as n from omni.attempts group by 1")
    return {one["outcome"]: one["n"] for one in found}
