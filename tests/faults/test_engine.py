"""Row 9: the engine dies, hangs, or runs out of memory with many units in it."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.cluster import Cluster, cluster, signal_to
from tests.faults.fake import Script
from tests.faults.report import Report

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(600)]

STALL_S = 4.0


def start_three(made: Cluster) -> None:
    made.start("maintain")
    made.start("cpu", fake_slots=8)
    made.start("io", fake_slots=8)


def in_flight(made: Cluster) -> int:
    found = made.sql("select count(*) as n from omni.units where state = 'running' and kind = 'span'")
    return found[0]["n"]


def charged(made: Cluster, ids: list[str]) -> list[dict[str, Any]]:
    return made.sql("select kind, lost, failed from omni.units where job_id = any(%s) and lost + failed > 0", ids)


def test_an_offender_pays_alone_in_a_full_engine(scale: float, report: Report) -> None:
    """One kills the process in a step, one has no room in memory, one never ends; the rest is done meanwhile."""
    count = max(30, round(300 * scale))
    with cluster() as made:
        good = [Script(f"neighbour-{n}", spans=2, span_s=2.0) for n in range(count)]
        bad = [Script(f"poison-{poison}", poison=poison, span_s=2.0) for poison in ("oom", "kill", "hang")]
        start_three(made)
        scripts = [*good[: count // 2], *bad, *good[count // 2 :]]
        ids = made.submit(scripts)
        named = dict(zip(ids, scripts, strict=True))
        prepared = "select 1 from omni.units where kind = 'prepare' and state <> 'done'"
        made.until(lambda: not made.sql(prepared), 60, "they are not prepared")
        # All are ready: the engine is filled at once, and dies with many in it.
        engine = made.start("gpu", omni_stall_s=STALL_S)
        most = made.until(lambda: (n := in_flight(made)) > 16 and n, 30, "the engine is not filled")
        states = made.wait(ids, timeout_s=150)
        sick = {job: script.poison for job, script in named.items() if script.poison}
        fine = [job for job in ids if job not in sick]
        ends = made.sql(
            """select job_id::text, state, lost, failed, alone, error->>'type' as type from omni.units
               where job_id = any(%s) and kind = 'span'""",
            list(sick),
        )
        paid = {sick[one.pop("job_id")]: one for one in ends}
        released = made.sql("select count(*) as n from omni.attempts where outcome = 'released'")[0]["n"]
        report.say(jobs=len(ids), **states, in_flight=most, released=released, engine_starts=engine.starts)
        report.say(**{poison: f"{one['lost']} lost {one['failed']} failed" for poison, one in paid.items()})
        assert states == {"succeeded": count, "failed": 3}
        assert charged(made, fine) == []
        made.check({job: named[job] for job in fine})
        assert paid["kill"] == {"state": "dead", "lost": 3, "failed": 0, "alone": True, "type": "crashed"}
        assert paid["oom"] == {"state": "dead", "lost": 0, "failed": 3, "alone": True, "type": "internal"}
        assert (paid["hang"]["state"], paid["hang"]["failed"], paid["hang"]["type"]) == ("dead", 3, "timeout")
        # The first death was in company, three more were the offender's alone; hanging and failing end nobody.
        assert engine.starts == 5


def test_an_engine_that_hangs_loses_what_it_holds(tmp_path: Path, report: Report) -> None:
    """Its step never returns: it ends itself. The whole process stands: its lease ends."""
    cured = tmp_path / "cured"
    with cluster() as made:
        start_three(made)
        engine = made.start("gpu", omni_stall_s=STALL_S)
        scripts = [Script(f"first-{n}", span_s=0.3) for n in range(10)]
        scripts.insert(5, Script("freezes", poison="freeze", cured=str(cured)))
        first = made.submit(scripts)
        made.until(lambda: engine.starts > 1, 60, "it does not end itself")
        cured.touch()
        assert made.wait(first, timeout_s=60) == {"succeeded": len(first)}
        assert engine.starts == 2 and charged(made, first) == []
        made.check(dict(zip(first, scripts, strict=True)))

        # What has no room in memory is tried with nothing beside it.
        (greedy,) = made.submit([Script("greedy", poison="oom", cured=str(roomy := tmp_path / "roomy"))])
        failed = "select alone from omni.units where job_id = %s and failed = 1"
        alone = made.until(lambda: made.sql(failed, greedy), 30, "memory does not run out")
        roomy.touch()
        assert alone == [{"alone": True}] and made.wait([greedy], timeout_s=30) == {"succeeded": 1}

        more = [Script(f"second-{n}", span_s=1.0) for n in range(20)]
        second = made.submit(more)
        held = made.until(lambda: (n := in_flight(made)) >= 4 and n, 30, "nothing runs")
        assert signal_to(engine.pid, signal.SIGSTOP)
        made.start("gpu")
        assert made.wait(second, timeout_s=60) == {"succeeded": len(second)}
        signal_to(engine.pid, signal.SIGCONT)
        made.check(dict(zip(second, more, strict=True)))
        silent = made.counted("workers_silent")
        report.say(jobs=len(first) + len(second), held_when_stopped=held, ended_itself=1, lost_its_lease=silent)
        assert charged(made, second) == [] and silent == 1
