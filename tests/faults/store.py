"""What must hold between rows and objects."""

import time

from tests.faults.cluster import Cluster


def dangling(made: Cluster) -> list[str]:
    """Objects that current rows point to and that are not there."""
    keys = {one.key for one in made.blobs.list("")}
    rows = made.sql(
        """select a.key from omni.artifacts a join omni.jobs j on j.job_id = a.job_id and j.result_revision = a.revision
           union all select s.snapshot from omni.sources s join omni.jobs j using (job_id)
           where s.snapshot is not null and j.state in ('queued', 'running')"""
    )
    return [one["key"] for one in rows if one["key"] not in keys]


def strays(made: Cluster) -> list[str]:
    """Objects that no live row answers for."""
    live = [one["prefix"] for one in made.sql("select prefix from omni.blobs where state = 'live'")]
    whole, below = (
        {prefix for prefix in live if prefix[-1] != "/"},
        tuple(prefix for prefix in live if prefix[-1] == "/"),
    )
    return [one.key for one in made.blobs.list("") if one.key not in whole and not one.key.startswith(below or ("\0",))]


def eventually_clean(made: Cluster, timeout_s: float) -> None:
    """The collector leaves nothing but what live rows answer for."""
    end = time.monotonic() + timeout_s
    while left := strays(made):
        assert time.monotonic() < end, f"{len(left)} objects are left: {left[:5]}"
        time.sleep(0.3)
