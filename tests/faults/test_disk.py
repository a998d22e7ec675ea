"""Row 30: no room for objects, a store that may only be read, a bucket without permission."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from omni_jobs.blobs import s3_client
from omni_jobs.embedded.s3 import SeaweedFS
from omni_jobs.intake.submit import Intake, Submission
from omni_jobs.options import Options
from tests.faults.cluster import Cluster, cluster
from tests.faults.fake import Script
from tests.faults.report import Report

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(900)]

READER = ("reader", "reads and does not write")


@contextmanager
def small_disk(path: Path, size: str = "24m") -> Iterator[Path]:
    """A disk of its own at a folder."""
    if os.geteuid() != 0:
        pytest.skip("a small disk can be mounted by root alone")
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue
    assert shutil.disk_usage(disk).free == 0
    return filler


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


def said(made: Cluster, ids: list[str], kind: str) -> list[str]:
    """What jobs say they wait for, once all of them have a unit of this kind open and say something."""
    found = made.sql(
        """select distinct j.job_id, j.waiting from omni.jobs j join omni.units u using (job_id)
           where j.job_id = any(%s::uuid[]) and u.kind = %s and u.state in ('ready', 'running')
             and j.waiting is not null""",
        ids,
        kind,
    )
    return sorted({one["waiting"] for one in found}) if len(found) == len(ids) else []


def tries(made: Cluster, ids: list[str], kind: str) -> list[dict[str, Any]]:
    """How the attempts at units of a kind came out."""
    query = """select a.outcome, count(*) as n from omni.attempts a join omni.units u using (unit_id)
               where u.kind = %s and u.job_id = any(%s::uuid[]) group by 1 order by 1"""
    return made.sql(query, kind, ids)


def kept(made: Cluster, ids: list[str], spans: int) -> None:
    """What was answered before, was answered once; what waited, was charged nothing."""
    assert tries(made, ids, "span") == [{"outcome": "succeeded", "n": spans}]
    charged = "select 1 from omni.units where lost + failed + rejected > 0"
    assert made.sql(charged) == []


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_store_that_takes_nothing_is_waited_for(tmp_path: Path, how: str, report: Report) -> None:
    with small_disk(tmp_path / "disk") as disk, cluster(blob_url=(disk / "blobs").as_uri()) as made:
        for pool in ("maintain", "cpu", "gpu", "io"):
            made.start(pool)
        made.wait(made.submit([Script("warm")]), 60)
        scripts = [Script(f"job-{n}", 2, span_s=2.0) for n in range(4)]
        ids = made.submit(scripts)
        running = "select count(*) as n from omni.units where kind = 'span' and state = 'running'"
        made.until(lambda: made.sql(running)[0]["n"] == 8, 60, "the spans were not begun")
        filler = fill(disk) if how == "full" else remount(disk, "ro")
        late = [Script(f"late-{n}", 2) for n in range(2)]
        late_ids = made.submit(late)

        reasons = made.until(lambda: said(made, ids, "deliver"), 60, "deliveries do not say what they wait for")
        reasons += made.until(lambda: said(made, late_ids, "prepare"), 60, "prepare does not say what it waits for")
        waited = tries(made, ids, "deliver")
        if filler is not None:
            filler.unlink()
        else:
            remount(disk, "rw")
        states = made.wait([*ids, *late_ids], timeout_s=60)
        report.say(**states, tries_while_it_was=waited[0]["n"], said=f'"{reasons[0]}"')
        assert states == {"succeeded": 6}
        failed = made.sql("select error from omni.attempts where outcome = 'failed'")
        assert [one["outcome"] for one in waited] == ["released"], failed
        assert made.sql("select 1 from omni.jobs where waiting is not null") == []
        kept(made, ids, 8)
        made.check(dict(zip([*ids, *late_ids], [*scripts, *late], strict=True)))


def test_a_bucket_that_refuses_is_waited_for_or_the_source_fails(
    monkeypatch: pytest.MonkeyPatch, report: Report
) -> None:
    """Ours without permission to write, ours with a wrong key, and a source's that may not be read."""
    own = SeaweedFS._identities

    def identities(server: SeaweedFS) -> dict:
        found = own(server)
        reader = {"accessKey": READER[0], "secretKey": READER[1]}
        actions = ["Read:omni", "List:omni"]
        found["identities"].append({"name": "reader", "credentials": [reader], "actions": actions})
        return found

    monkeypatch.setattr(SeaweedFS, "_identities", identities)
    with cluster(s3=True, s3_sources=("closed",)) as made:
        s3 = s3_client(made.settings)
        s3.create_bucket(Bucket="closed")
        s3.put_object(Bucket="closed", Key="a.json", Body=Script("a").to_bytes())
        for pool in ("maintain", "cpu", "gpu"):
            made.start(pool)
        denied = made.start("io", omni_s3_access_key=READER[0], omni_s3_secret_key=READER[1])
        scripts = [Script(f"job-{n}", 2) for n in range(4)]
        ids = made.submit(scripts)
        first = made.until(lambda: said(made, ids, "deliver"), 60, "deliveries do not say what they wait for")
        made.stop(denied)
        wrong = made.start("io", omni_s3_secret_key="not the key")
        second = made.until(
            lambda: [one for one in said(made, ids, "deliver") if one not in first], 60, "a wrong key is not told"
        )
        made.stop(wrong)
        made.start("io")
        states = made.wait(ids, timeout_s=60)
        assert states == {"succeeded": 4}
        kept(made, ids, 8)
        made.check(dict(zip(ids, scripts, strict=True)))

        # A source in a bucket that this key may not read.
        (cpu,) = made.of("cpu")
        made.stop(cpu)
        made.start("cpu", omni_s3_access_key=READER[0], omni_s3_secret_key=READER[1])
        intake = Intake(made.db, made.blobs, made.bell, made.settings)
        closed = intake.submit(Submission(uri="s3://closed/a.json", options=Options(summary=False))).job_id
        ends = made.wait([closed], timeout_s=60)
        error = made.sql(
            "select error->>'type' as type, error->>'message' as message from omni.jobs where job_id = %s", closed
        )
        report.say(**states, without_permission=f'"{first[0]}"', wrong_key=f'"{second[0]}"', source=error[0]["message"])
        assert ends == {"failed": 1} and error[0]["type"] == "unreadable" and "AccessDenied" in error[0]["message"]
