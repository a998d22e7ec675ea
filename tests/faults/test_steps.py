"""Row 8: the process dies between any two steps of prepare, infer, finish, settle, deliver and collect."""

import pytest

from omni_jobs.failpoints import NAMES
from tests.faults.cluster import cluster
from tests.faults.fake import Script
from tests.faults.report import Report
from tests.faults.store import dangling, eventually_clean

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(900)]

POOL = {"prepare": "cpu", "infer": "gpu", "deliver": "io", "collect": "maintain", "claim": "gpu"}


def where(name: str) -> list[str]:
    """The pools whose workers reach a failpoint."""
    part = name.partition(".")[0]
    return [POOL[part]] if part in POOL else ["cpu", "gpu", "io"]


def test_a_death_at_any_step_leaves_one_result_and_nothing_behind(report: Report) -> None:
    deaths = 0
    with cluster(keep_sources="reference") as made:
        for pool in ("maintain", "cpu", "gpu", "io"):
            made.start(pool)
        for name in sorted(NAMES):
            for pool in where(name):
                for worker in made.of(pool):
                    made.stop(worker)
                doomed = made.start(pool, failpoints=f"{name}=kill")
                scripts = [Script(f"{name}-{pool}-{n}", spans=2) for n in range(3)]
                ids = made.submit(scripts)
                assert made.wait(ids, timeout_s=60) == {"succeeded": 3}, (name, pool)
                made.until(lambda doomed=doomed: doomed.starts > 1, 20, f"{name} was not reached in {pool}")
                deaths += doomed.starts - 1
                made.check(dict(zip(ids, scripts, strict=True)))
        assert dangling(made) == []
        eventually_clean(made, 30)
    report.say(steps=len(NAMES), deaths=deaths, dangling=0)
