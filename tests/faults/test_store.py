"""Row 7: the object store refuses, hangs, says 500 after storing, keeps half of a body, and breaks off answers."""

import time

import pytest

from omni_jobs.blobs import open_blobs
from tests.faults.cluster import cluster
from tests.faults.fake import Script
from tests.faults.proxy import Faults, Proxy
from tests.faults.report import Report
from tests.faults.store import dangling, eventually_clean

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(900)]


def test_what_is_committed_is_stored_whole_and_nothing_else_stays(scale: float, report: Report) -> None:
    jobs = max(10, round(100 * scale))
    proxy = Proxy(Faults())
    with cluster(s3=True, s3_endpoint=proxy.url) as made:
        assert made.s3 is not None
        proxy.target = made.s3.endpoint
        # What we look with goes straight to the store.
        made.blobs = open_blobs(made.settings.model_copy(update={"s3_endpoint": made.s3.endpoint}))
        made.start("maintain")
        for pool in ("cpu", "gpu", "io", "io"):
            made.start(pool)
        proxy.faults = Faults(refused=0.2, hung=0.02, lied=0.08, short=0.05, cut=0.05)
        scripts = [Script(f"job-{n}", spans=1 + n % 2) for n in range(jobs)]
        ids = made.submit(scripts)
        end, looks = time.monotonic() + 240, 0
        while made.open_jobs():
            # Twice: what was put between a look at the objects and one at the rows is no loss.
            assert not set(dangling(made)) & set(dangling(made))
            looks += 1
            assert time.monotonic() < end, f"{made.stuck()}\n{made.logs()}"
            time.sleep(0.3)
        states = made.wait(ids, timeout_s=10)
        attempts = made.sql("select outcome as o, count(*) as n from omni.attempts group by 1")
        outcomes = {one["o"]: one["n"] for one in attempts}
        (stored,) = made.sql("select count(*) as n from omni.artifacts")
        report.say(jobs=jobs, **states, **proxy.counts, attempts=outcomes, artifacts=stored["n"], looks=looks)
        assert states == {"succeeded": jobs}
        # What the proxy keeps short of is short for everybody: artifacts are read as a user would.
        proxy.faults = Faults()
        made.blobs = open_blobs(made.settings)
        made.check(dict(zip(ids, scripts, strict=True)))
        assert all(proxy.counts[name] for name in ("refused", "hung", "lied", "short", "cut"))
        assert proxy.counts["refused"] + proxy.counts["hung"] + proxy.counts["lied"] >= 0.2 * proxy.counts["puts"]
        eventually_clean(made, 60)
        assert dangling(made) == []
    proxy.close()
