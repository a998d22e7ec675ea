"""What a job leaves behind: nothing, once it is deleted or too old, by the listing of the store and of every table."""

import pytest

from omni_jobs.store import jobs
from tests.faults.cluster import Cluster, cluster
from tests.faults.fake import Script
from tests.faults.report import Report
from tests.faults.store import dangling, eventually_clean

pytestmark = [pytest.mark.servers, pytest.mark.faults]


def traces(made: Cluster, ids: list[str]) -> list[str]:
    """Objects and rows that name one of these jobs; of our record of objects, only what is not dropped yet."""
    found = [one.key for one in made.blobs.list("") if any(job in one.key for job in ids)]
    tables = made.sql(
        """select table_name from information_schema.columns
           where table_schema = 'omni' and column_name = 'job_id' and table_name <> 'blobs'"""
    )
    for table in (one["table_name"] for one in tables):
        rows = made.sql(f"select 1 from omni.{table} where job_id = any(%s::uuid[])", ids)
        found += [f"a row of {table}"] * len(rows)
    rows = made.sql("select state from omni.blobs where job_id = any(%s::uuid[]) and state <> 'dropped'", ids)
    return found + [f"a {one['state']} prefix" for one in rows]


@pytest.mark.parametrize("s3", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["files", "S3"])
def test_a_deleted_job_is_gone_everywhere(s3: bool, report: Report) -> None:
    with cluster(s3=s3) as made:
        # Two of each: every duty may be done by several at once.
        for pool in ("maintain", "maintain", "cpu", "gpu", "io"):
            made.start(pool)
        scripts = [Script(f"done-{number}") for number in range(6)]
        done = made.submit(scripts)
        assert made.wait(done, timeout_s=60) == {"succeeded": 6}
        working = made.submit([Script(f"working-{number}", prepare_s=0.3, span_s=1.0) for number in range(4)])
        made.until(lambda: made.sql("select 1 from omni.units where state = 'running'"), 20, "nothing ran")
        gone = [*done[:3], *working]
        for job in gone:
            jobs.delete(made.db, made.settings.tenant, job)
        made.until(lambda: not traces(made, gone), 30, f"left: {traces(made, gone)[:5]}")
        made.check(dict(zip(done[3:], scripts[3:], strict=True)))
        assert dangling(made) == []
        eventually_clean(made, 20)
        report.say(deleted=len(gone), while_working=4, traces=0, kept=3)


def test_jobs_go_when_they_are_old(report: Report) -> None:
    with cluster(keep_days=1.0) as made:
        for pool in ("cpu", "gpu", "io"):
            made.start(pool)
        ids = made.submit([Script(f"job-{number}") for number in range(4)])
        assert made.wait(ids, timeout_s=60) == {"succeeded": 4}
        old, young = ids[:2], ids[2:]
        made.sql("update omni.jobs set finished_at = now() - interval '25 h' where job_id = any(%s) returning 1", old)
        made.start("maintain")
        made.until(lambda: not traces(made, old), 60, "old jobs are still there")
        assert traces(made, young)
        report.say(expired=2, kept=2)
