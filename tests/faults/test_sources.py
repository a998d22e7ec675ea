"""Row 29: a source is overwritten, replaced, deleted or cut while its job waits, and while it is read."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from omni_jobs.blobs import s3_client
from omni_jobs.embedded.s3 import BUCKET
from omni_jobs.intake.submit import Intake, Submission
from omni_jobs.options import Options
from tests.faults.cluster import Cluster, cluster
from tests.faults.fake import Script, expected
from tests.faults.report import Report

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(900)]

# More than two of the pieces that a copy consists of.
SIZE = 20 << 20


def content(script: Script, fill: bytes = b" ") -> bytes:
    said = script.to_bytes()
    return said + fill * (SIZE - len(said))


class File:
    """A source that is a file."""

    def __init__(self, made: Cluster, name: str) -> None:
        self.path = made.folder / "in" / f"{name}.json"
        self.uri = self.path.as_uri()

    def put(self, data: bytes) -> None:
        """Put another file in its place."""
        part = self.path.with_suffix(".part")
        part.write_bytes(data)
        os.replace(part, self.path)

    def overwrite(self, data: bytes) -> None:
        """Write over it, where it lies."""
        with self.path.open("r+b") as file:
            file.write(data)

    def cut(self) -> None:
        os.truncate(self.path, 9 << 20 if self.path.stat().st_size > 9 << 20 else 20)

    def empty(self) -> None:
        os.truncate(self.path, 0)

    def delete(self) -> None:
        self.path.unlink()


class Object(File):
    """A source that is an object of a bucket; there is no writing into one."""

    def __init__(self, made: Cluster, name: str) -> None:
        self.client, self.key = s3_client(made.settings), f"in/{name}.json"
        self.uri = f"s3://{BUCKET}/{self.key}"

    def put(self, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=self.key, Body=data)

    overwrite = put

    def cut(self) -> None:
        self.put(self.client.get_object(Bucket=BUCKET, Key=self.key)["Body"].read()[: 9 << 20])

    def empty(self) -> None:
        self.put(b"")

    def delete(self) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=self.key)


CHANGES: dict[str, Callable[[File, bytes], None]] = {
    "overwritten": lambda source, data: source.overwrite(data),
    "replaced": lambda source, data: source.put(data),
    "deleted": lambda source, data: source.delete(),
    "cut": lambda source, data: source.cut(),
    "emptied": lambda source, data: source.empty(),
}


@dataclass
class Case:
    source: File
    name: str
    change: str
    old: Script
    new: Script
    job_id: str = ""
    versions: dict[str, Script] = field(default_factory=dict)  # what may be answered, by its sha-256

    def __post_init__(self) -> None:
        before, after = content(self.old), content(self.new, b"\n")
        self.source.put(before)
        self.after = after
        cut = before[: 9 << 20]
        for data, script in ((before, self.old), (after, self.new), (cut, self.old)):
            self.versions[hashlib.sha256(data).hexdigest()] = script

    def happen(self) -> None:
        CHANGES[self.change](self.source, self.after)


def cases(made: Cluster, when: str) -> list[Case]:
    made_of: list[tuple[str, type[File]]] = [("file", File), ("object", Object)]
    return [
        Case(kind(made, name), name, change, Script(f"old-{name}", 2), Script(f"new-{name}", 2))
        for title, kind in made_of
        for change in CHANGES
        for name in [f"{title}-{change}-{when}"]
    ]


def submit(made: Cluster, found: list[Case]) -> None:
    intake = Intake(made.db, made.blobs, made.bell, made.settings)
    options = Options(word_times=False, summary=False)
    for case in found:
        case.job_id = intake.submit(Submission(uri=case.source.uri, options=options, reuse=False)).job_id


def judge(made: Cluster, found: list[Case]) -> Counter[str]:
    """Each is answered as one of its versions, whole, or has failed with a type."""
    ends: Counter[str] = Counter()
    for case in found:
        (job,) = made.sql("select state, error->>'type' as type from omni.jobs where job_id = %s", case.job_id)
        if job["state"] == "failed":
            assert job["type"] in ("unreadable", "empty"), (case.name, job)
            ends[f"failed: {job['type']}"] += 1
            continue
        assert job["state"] == "succeeded", (case.name, job)
        (source,) = made.sql("select sha256, snapshot from omni.sources where job_id = %s", case.job_id)
        assert source["sha256"] in case.versions, f"{case.name}: the snapshot is no version of its source"
        assert hashlib.sha256(made.blobs.get(source["snapshot"])).hexdigest() == source["sha256"], case.name
        script = case.versions[source["sha256"]]
        texts = made.sql("select text from omni.segments where job_id = %s order by start_s", case.job_id)
        assert [one["text"] for one in texts] == [expected(script, at) for at in range(2)], case.name
        ends["answered: old" if script is case.old else "answered: new"] += 1
    return ends


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    """Everything but a worker that prepares."""
    with cluster(s3=True) as made:
        for pool in ("maintain", "gpu", "io"):
            made.start(pool)
        yield made


def test_a_source_that_changes_while_its_job_waits(made: Cluster, report: Report) -> None:
    found = cases(made, "queued")
    submit(made, found)
    for case in found:
        case.happen()
    cpu = made.start("cpu")
    made.wait([case.job_id for case in found], timeout_s=120)
    made.stop(cpu)
    ends = judge(made, found)
    report.say(changes=len(found), **ends)
    # Nobody had read them: what is there, is answered; what is not, is said.
    assert ends["answered: old"] <= 2 and ends["answered: new"] == 4 and ends["failed: empty"] == 2


AT = ("prepare.copying=sleep:0.7", "prepare.copied=sleep:2", "prepare.kept=sleep:2")


@pytest.mark.parametrize("at", AT, ids=["while it is read", "when it is read", "when that is noted"])
def test_a_source_that_changes_under_a_worker(made: Cluster, at: str, report: Report) -> None:
    when = at.partition("=")[0].partition(".")[2]
    found = cases(made, when)
    submit(made, found)
    cpu = made.start("cpu", failpoints=at, fake_slots=len(found))
    waiting = {case.job_id: case for case in found}
    while waiting:
        for job_id in made.until(lambda: begun(made, list(waiting), when), 120, "nothing was read"):
            waiting.pop(job_id).happen()
    made.wait([case.job_id for case in found], timeout_s=120)
    assert cpu.starts == 1
    made.stop(cpu)
    ends = judge(made, found)
    query = """select count(*) as n from omni.attempts join omni.units u using (unit_id)
               where outcome <> 'succeeded' and u.job_id = any(%s::uuid[])"""
    again = made.sql(query, [case.job_id for case in found])[0]["n"]
    report.say(changes=len(found), read_again=again, **ends)
    if when == "copying":
        assert again > 0 and ends["answered: old"] > 0
    else:
        assert ends == {"answered: old": len(found)}  # it had been taken


def begun(made: Cluster, ids: list[str], when: str) -> list[Any]:
    """Jobs whose sources are being copied, or are."""
    query = {
        "copying": """select job_id::text from omni.blobs where kind = 'source' and state = 'writing'
                      and changed_at < now() - interval '0.2 s' and job_id = any(%s::uuid[])""",
        "copied": "select job_id::text from omni.sources where snapshot is null and job_id = any(%s::uuid[])",
        "kept": "select job_id::text from omni.sources where snapshot is not null and job_id = any(%s::uuid[])",
    }[when]
    found = [one["job_id"] for one in made.sql(query, ids)]
    if when == "copied":
        # The row does not say so yet: the object does.
        return [job_id for job_id in found if any(made.blobs.list(f"{made.settings.tenant}/{job_id}/source/"))]
    return found
