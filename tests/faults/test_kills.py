"""Rows 1, 2 and 4: workers are killed at random while they work, and one unit kills whoever touches it."""

from pathlib import Path

import pytest

from tests.faults.cluster import Cluster, Killer, cluster
from tests.faults.fake import Script
from tests.faults.report import Report

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(900)]


def start_four(made: Cluster) -> None:
    for pool in ("maintain", "maintain", "cpu", "gpu", "gpu", "io"):
        made.start(pool)


def test_killed_workers_lose_nothing_and_double_nothing(scale: float, report: Report) -> None:
    wanted_kills, jobs = round(200 * scale), round(1000 * scale)
    with cluster() as made:
        start_four(made)
        killer = Killer(made, ["cpu", "gpu", "io"], every_s=0.35, most=wanted_kills).start()
        scripts = [Script(f"job-{n}", spans=1 + n % 3, prepare_s=0.05, span_s=0.1) for n in range(jobs)]
        ids = made.submit(scripts, threads=2)
        # Work goes on coming until all kills have been made: late ones hit as much as early ones.
        extra = 0
        while not killer.done(0.2):
            if made.open_jobs() < 20:
                more = [Script(f"more-{extra + n}", spans=2, prepare_s=0.05, span_s=0.1) for n in range(20)]
                scripts, ids, extra = [*scripts, *more], [*ids, *made.submit(more, threads=2)], extra + 20
        states = made.wait(ids, timeout_s=180)
        kills = killer.stop()
        lost = made.sql("select outcome, count(*) as n from omni.attempts where outcome <> 'succeeded' group by 1")
        report.say(kills=kills.total, hit_a_running_unit=kills.share, jobs=len(ids), **states)
        report.say(**{one["outcome"]: one["n"] for one in lost})
        assert kills.total >= wanted_kills and kills.share >= 0.7
        assert states == {"succeeded": len(ids)}
        made.check(dict(zip(ids, scripts, strict=True)))


@pytest.mark.parametrize(
    ("poison", "at"),
    [
        pytest.param("kill", 0, id="kill in a span"),
        pytest.param("segv", 0, id="segv in a span", marks=pytest.mark.slow),
        pytest.param("kill", -1, id="kill in prepare", marks=pytest.mark.slow),
        pytest.param("segv", -1, id="segv in prepare"),
    ],
)
def test_a_poison_pays_alone_and_is_replayed_once_cured(tmp_path: Path, poison: str, at: int, report: Report) -> None:
    cured = tmp_path / "cured"
    with cluster() as made:
        start_four(made)
        bad = Script("poison", spans=1, poison=poison, at=at, cured=str(cured))
        good = [Script(f"neighbour-{n}", span_s=0.3, prepare_s=0.2) for n in range(20)]
        scripts = [*good[:10], bad, *good[10:]]
        ids = made.submit(scripts)
        named = dict(zip(ids, scripts, strict=True))
        (sick,) = [job for job, script in named.items() if script is bad]
        states = made.wait(ids, timeout_s=120)
        assert states == {"succeeded": 20, "failed": 1}
        charged = made.sql(
            """select u.job_id::text, count(*) as n from omni.attempts a join omni.units u using (unit_id)
               where a.outcome = 'lost' group by 1"""
        )
        assert charged == [{"job_id": sick, "n": 3}], charged
        dead = made.sql("select error->>'type' as type, lost from omni.units where state = 'dead' and lost > 0")
        assert dead == [{"type": "crashed", "lost": 3}]
        released = made.sql("select count(*) as n from omni.attempts where outcome = 'released'")
        made.check({job: script for job, script in named.items() if script is not bad})

        cured.touch()
        revision = made.retry(sick)
        assert (revision, made.wait([sick], timeout_s=60)) == (2, {"succeeded": 1})
        made.check({sick: bad})
        report.say(poison_lost=3, neighbours_lost=0, neighbours_released=released[0]["n"], revision=revision)


def test_long_work_outlives_every_timeout_of_the_broker(report: Report) -> None:
    with cluster() as made:
        start_four(made)
        scripts = [Script(f"long-{n}", prepare_s=0.05, span_s=3.0) for n in range(4)]
        ids = made.submit(scripts)
        assert made.wait(ids, timeout_s=60) == {"succeeded": 4}
        tries = made.sql("select max(generation) as most from omni.units")
        vain = made.counted("wakes_in_vain")
        report.say(tries=tries[0]["most"], wakes_in_vain=vain)
        assert tries == [{"most": 1}] and vain > 0
