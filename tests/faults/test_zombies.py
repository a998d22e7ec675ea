"""Row 3: a process that was frozen comes back when others have taken over what it held."""

import random
import signal
import time
from typing import Any

import pytest

from omni_jobs.job import UnitKind
from tests.faults.cluster import Cluster, Worker, cluster, signal_to
from tests.faults.fake import Script
from tests.faults.report import Report

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(900)]

LEASE_S = 1.0


def fenced(made: Cluster) -> float:
    """Refusals that workers counted."""
    return sum(made.counted(f'units{{kind="{kind.value}",outcome="fenced"}}') for kind in UnitKind)


def held(made: Cluster, pids: list[int]) -> list[dict[str, Any]]:
    return made.sql(
        """select u.unit_id, u.generation from omni.units u join omni.workers w using (worker_id)
           where u.state = 'running' and w.pid = any(%s)""",
        pids,
    )


def freeze(made: Cluster, workers: list[Worker]) -> list[dict[str, Any]]:
    """Stop them, for three leases, and let them go on; returns what they held."""
    pids = [worker.pid for worker in workers]
    for pid in pids:
        assert signal_to(pid, signal.SIGSTOP)
    time.sleep(0.1)  # what was on its way to the server has arrived
    frozen = held(made, pids)
    time.sleep(3 * LEASE_S)
    for pid in pids:
        signal_to(pid, signal.SIGCONT)
    return frozen


def test_what_comes_back_from_a_freeze_writes_nothing(scale: float, report: Report) -> None:
    """Some are frozen, by turns in each pool, while as many others go on with the work."""
    wanted, dice = max(4, round(50 * scale)), random.Random(3)
    with cluster(lease_s=LEASE_S) as made:
        made.start("maintain")
        crew = {pool: [made.start(pool, fake_slots=4) for _ in range(3)] for pool in ("cpu", "gpu")}
        made.start("io")
        scripts: list[Script] = []
        ids: list[str] = []
        frozen: list[dict[str, Any]] = []
        freezes = 0
        while freezes < wanted:
            pool = ("gpu", "gpu", "cpu")[freezes % 3]
            if made.open_jobs() < 40 or made.open_units(pool) < 20:
                more = [Script(f"job-{len(ids) + n}", 2, prepare_s=0.3, span_s=0.8) for n in range(20)]
                scripts, ids = scripts + more, ids + made.submit(more)
            sleepers = dice.sample(crew[pool], 2)
            pids = [worker.pid for worker in sleepers]
            made.until(lambda pids=pids: len(held(made, pids)) >= 4, 30, "nothing to freeze")
            frozen += freeze(made, sleepers)
            freezes += len(sleepers)
        assert made.wait(ids, timeout_s=120) == {"succeeded": len(ids)}
        replaced = made.sql(
            """select a.unit_id, a.generation, a.outcome from omni.attempts a join omni.units u using (unit_id)
               where u.generation > a.generation and (a.unit_id, a.generation) in (
                 select * from unnest(%s::uuid[], %s::int[]))""",
            [one["unit_id"] for one in frozen],
            [one["generation"] for one in frozen],
        )
        # One that a worker had taken again itself is told to stop twice and ends once.
        made.until(lambda: fenced(made) >= len(replaced), 10, f"{fenced(made)} of {len(replaced)} refusals are counted")
        report.say(freezes=freezes, held=len(frozen), taken_over=len(replaced), refusals_counted=fenced(made))
        assert freezes >= wanted and len(replaced) >= freezes
        assert [one for one in replaced if one["outcome"] == "succeeded"] == []
        made.check(dict(zip(ids, scripts, strict=True)))


def test_a_holder_that_is_late_but_not_replaced_may_finish(report: Report) -> None:
    with cluster(lease_s=LEASE_S) as made:
        for pool in ("maintain", "cpu", "io"):
            made.start(pool)
        # One slot: it cannot take the unit a second time while it still works on it.
        alone = made.start("gpu", fake_slots=1)
        script = Script("late", span_s=1.0)
        ids = made.submit([script])
        made.until(lambda: held(made, [alone.pid]), 30, "nothing to freeze")
        freeze(made, [alone])
        assert made.wait(ids, timeout_s=30) == {"succeeded": 1}
        unit = made.sql("select generation, lost from omni.units where kind = 'span'")
        tried = made.sql("select outcome from omni.attempts join omni.units u using (unit_id) where u.kind = 'span'")
        report.say(given_up=unit[0]["lost"], attempts=len(tried), refusals=fenced(made))
        assert unit == [{"generation": 1, "lost": 1}]
        assert tried == [{"outcome": "succeeded"}]
        made.check({ids[0]: script})


def test_a_process_frozen_inside_a_transaction_holds_up_nobody(report: Report) -> None:
    """It has locked its jobs and never commits: the server takes the locks away, and later refuses it."""
    with cluster(lease_s=LEASE_S) as made:
        for pool in ("maintain", "cpu", "io"):
            made.start(pool)
        sleeper = made.start("gpu", failpoints="end.written@1=sleep:1")
        scripts = [Script(f"job-{n}", spans=2) for n in range(6)]
        ids = made.submit(scripts)
        made.until(lambda: _inside(made), 30, "it was not seen inside a transaction")
        signal_to(sleeper.pid, signal.SIGSTOP)
        started = time.monotonic()
        made.start("gpu")
        others = made.wait(ids, timeout_s=60)
        took_s = time.monotonic() - started
        signal_to(sleeper.pid, signal.SIGCONT)
        time.sleep(2)
        report.say(**others, done_after_s=took_s, refusals=fenced(made))
        assert others == {"succeeded": len(ids)}
        made.check(dict(zip(ids, scripts, strict=True)))


def _inside(made: Cluster) -> bool:
    """Whether a connection of the gpu pool has been idle in a transaction for a while: it sleeps at its failpoint."""
    return bool(
        made.sql(
            """select 1 from pg_stat_activity where application_name = 'omni-jobs gpu' and state = 'idle in transaction'
               and state_change < now() - interval '0.2 s'"""
        )
    )
