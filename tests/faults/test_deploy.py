"""Row 11: workers are told to end, one after another, while there is work."""

import os
import signal
import time

import pytest

from tests.faults.cluster import Cluster, Worker, cluster, signal_to
from tests.faults.fake import Script
from tests.faults.report import Report

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(900)]

DRAIN_S = 1.0
GRACE_S = DRAIN_S + 10.0
POOLS = ("cpu", "gpu", "gpu", "io")


def test_a_rolling_restart_costs_no_attempt(scale: float, report: Report) -> None:
    rounds = max(5, round(20 * scale))
    with cluster(drain_s=DRAIN_S, lease_s=10) as made:
        rolled = [made.start(pool) for pool in POOLS]
        rolled.append(made.start("maintain"))
        # One in four takes longer than a worker may drain: it is handed back.
        scripts: list[Script] = []
        ids: list[str] = []
        drains_s: list[float] = []
        told = held = 0
        for number in range(rounds):
            worker = rolled[number % len(rolled)]
            if made.open_jobs() < 15 or (worker.pool == "cpu" and made.open_units("cpu") < 5):
                more = [_script(len(scripts) + n) for n in range(20)]
                scripts, ids = [*scripts, *more], [*ids, *made.submit(more)]
            if worker.pool != "maintain":
                made.until(lambda worker=worker: _held(made, worker.pid), 60, f"{worker.pool} gets nothing to do")
            seconds, said, units = _roll(made, worker)
            drains_s.append(seconds)
            told, held = told + said, held + units
        states = made.wait(ids, timeout_s=120)
        attempts = made.sql("select coalesce(outcome, 'open') as o, count(*) as n from omni.attempts group by 1")
        outcomes = {one["o"]: one["n"] for one in attempts}
        report.say(restarts=rounds, held_a_unit=held, seen_draining=told, slowest_drain_s=max(drains_s))
        report.say(jobs=len(ids), **states, attempts=outcomes)
        assert states == {"succeeded": len(ids)}
        made.check(dict(zip(ids, scripts, strict=True)))
        assert set(outcomes) <= {"succeeded", "released"}, outcomes
        assert made.sql("select 1 from omni.units where lost + failed > 0") == []
        assert max(drains_s) <= GRACE_S
        assert held > 0 and told > 0


def _script(number: int) -> Script:
    return Script(f"job-{number}", spans=2, prepare_s=0.4, span_s=4.0 if number % 4 == 0 else 0.4)


def _held(made: Cluster, pid: int) -> int:
    query = """select count(*) as n from omni.units u join omni.workers w using (worker_id)
               where w.pid = %s and w.state = 'running' and u.state = 'running'"""
    return made.sql(query, pid)[0]["n"]


def _roll(made: Cluster, worker: Worker) -> tuple[float, bool, bool]:
    """End a worker as a deployment does, and wait for its successor.

    Returns:
        Seconds it took to go, whether it was seen to drain while it lived, and whether it held a unit.
    """
    pid, held, told = worker.pid, _held(made, worker.pid) > 0, False
    started = time.monotonic()
    assert signal_to(pid, signal.SIGTERM)
    while pid not in made.nursery.ended:
        (row,) = made.sql("select state from omni.workers where pid = %s order by started_at desc limit 1", pid)
        told |= row["state"] == "draining"
        assert time.monotonic() - started < 3 * GRACE_S, f"{worker.pool} does not end\n{made.logs()}"
        time.sleep(0.02)
    seconds = time.monotonic() - started
    assert os.waitstatus_to_exitcode(made.nursery.ended[pid]) == 0, made.logs()
    (row,) = made.sql("select state from omni.workers where pid = %s order by started_at desc limit 1", pid)
    assert row["state"] == "gone"
    made.until(lambda: worker.pid != pid, 30, "no successor")
    return seconds, told, held
