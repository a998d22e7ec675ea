"""A watched bucket, on a real S3 server."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from omni_jobs.blobs import BlobStore, S3Store, open_blobs, s3_client
from omni_jobs.embedded.home import Home
from omni_jobs.embedded.s3 import SeaweedFS
from omni_jobs.errors import UsageError
from omni_jobs.intake.bucket import Bucket
from omni_jobs.intake.lister import Lister
from omni_jobs.intake.outputs import Output
from omni_jobs.intake.submit import Intake
from omni_jobs.settings import Settings
from omni_jobs.store import jobs
from omni_jobs.store.database import new_id, rows

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def s3() -> Iterator[SeaweedFS]:
    folder = Path(tempfile.mkdtemp(prefix="omni-s3-"))
    folder.chmod(0o711)
    home = Home(folder / "home")
    home.create()
    (folder / "run").mkdir(mode=0o711)
    server = SeaweedFS(home, folder / "run")
    server.start()
    try:
        server.ready()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def settings(settings: Settings, s3: SeaweedFS) -> Settings:
    """Our objects and the watched ones in one bucket, under names of this test."""
    keys = {"s3_endpoint": s3.endpoint, "s3_access_key": s3.access_key, "s3_secret_key": s3.secret_key}
    return settings.model_copy(update={**keys, "blob_url": f"{s3.url}/{new_id()}/own"})


@pytest.fixture
def bucket(settings: Settings) -> S3Store:
    """The part of the bucket that a user fills; `in` is watched."""
    prefix = settings.blob_url.removeprefix("s3://omni/").removesuffix("/own")
    return S3Store(s3_client(settings), "omni", prefix)


class Watch:
    def __init__(self, target: str, intake: Intake, settings: Settings) -> None:
        self.now = 0.0
        self.place = Bucket(target, settings)
        self.lister = Lister(self.place, intake, settings, threading.Event(), clock=lambda: self.now)

    def looks(self, times: int = 2) -> None:
        for _ in range(times):
            self.now += 1
            self.lister.take_in()
            self.lister.hand_out()


@pytest.fixture
def watch(settings: Settings, intake: Intake) -> Callable[[str], Watch]:
    root = settings.blob_url.removesuffix("/own")
    return lambda prefix: Watch(f"{root}/{prefix}", intake, settings)


def names(db: Engine) -> list[str]:
    return sorted(job["name"] for job in jobs.list_page(db, "default", limit=100))


def keys(store: BlobStore, prefix: str = "") -> list[str]:
    return [one.key for one in store.list(prefix)]


def test_objects_become_jobs_once_and_results_lie_next_to_the_prefix(
    watch: Callable[[str], Watch], bucket: S3Store, db: Engine, finish_jobs: Callable[..., None]
) -> None:
    for name in ("in/a b#1.mp4", "in/sub/c.pdf", "in/notes.txt", "in/.hidden/d.mp4", "in/e.mp4.part", "inn/f.mp4"):
        bucket.put(name, b"bytes")
    watching = watch("in")
    watching.looks(1)
    assert names(db) == []
    watching.looks(3)
    assert names(db) == ["a b#1.mp4", "c.pdf"]
    finish_jobs()
    watching.looks(3)
    assert names(db) == ["a b#1.mp4", "c.pdf"]
    results = ["manifest.json", "result.json", "subtitles.srt", "text.txt"]
    assert keys(bucket, "omni-results/") == [
        f"omni-results/in/{name}/{one}" for name in ("a b#1.mp4", "sub/c.pdf") for one in results
    ]
    assert bucket.get("omni-results/in/sub/c.pdf/text.txt") == b"Hi\n"


def test_the_manifest_comes_last(
    watch: Callable[[str], Watch], bucket: S3Store, finish_jobs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("in/a.mp4", b"bytes")
    watching = watch("in")
    watching.looks(2)
    finish_jobs()
    put: list[str] = []
    monkeypatch.setattr(watching.place._store, "put", lambda key, *_: put.append(key.rpartition("/")[2]))
    watching.looks(1)
    assert put[-2:] == ["result.json", "manifest.json"] and len(put) == 4


def test_a_new_version_that_fails_takes_away_what_the_old_one_left(
    watch: Callable[[str], Watch], bucket: S3Store, finish_jobs: Callable[..., None]
) -> None:
    watching = watch("in")
    bucket.put("in/a.mp4", b"bytes")
    watching.looks(2)
    finish_jobs()
    watching.looks(1)
    bucket.put("omni-results/in/a.mp4/notes.txt", b"mine")
    bucket.put("omni-results/in/a.mp4/b.mp4/text.txt", b"of another object")
    bucket.put("in/a.mp4", b"other bytes")
    watching.looks(2)
    finish_jobs(fail=True)
    watching.looks(1)
    assert keys(bucket, "omni-results/") == [
        f"omni-results/in/a.mp4/{name}" for name in ("b.mp4/text.txt", "notes.txt", "result.json")
    ]


def test_a_result_is_streamed(watch: Callable[[str], Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(100):
            asked.append(number)
            yield bytes([number]) * 100_000

    place = watch("in").place
    read: list[bytes] = []
    monkeypatch.setattr(place._store, "put", lambda key, data, media_type: read.append(data.read(150_000)))
    place.give("in/a.mp4", [Output("txt", "text.txt", "text/plain", "", pieces)])
    assert read == [bytes(100_000) + b"\1" * 50_000] and len(asked) < 5


def test_neither_results_nor_our_own_objects_are_listed(
    watch: Callable[[str], Watch], bucket: S3Store, settings: Settings, db: Engine
) -> None:
    open_blobs(settings).put(f"default/{new_id()}/media/x.flac", b"ours")
    bucket.put("omni-results/x.mp4/y.mp4", b"ours, too")
    bucket.put("theirs.mp4", b"bytes")
    watch("").looks(3)
    assert names(db) == ["theirs.mp4"]


def test_an_object_with_new_bytes_is_a_new_job(watch: Callable[[str], Watch], bucket: S3Store, db: Engine) -> None:
    watching = watch("in")
    for data in (b"one", b"two"):
        bucket.put("in/a.mp4", data)
        watching.looks(3)
    assert names(db) == ["a.mp4", "a.mp4"]
    with db.connect() as tx:
        assert {one["state"] for one in rows(tx, "select state from omni.ledger")} == {"taken"}


def test_a_second_watcher_and_a_restart_make_no_second_job(
    watch: Callable[[str], Watch], bucket: S3Store, db: Engine
) -> None:
    bucket.put("in/a.mp4", b"one")
    watchers = [watch("in"), watch("in/")]
    for _ in range(3):
        for one in watchers:
            one.looks(1)
    watch("in").looks(3)
    assert names(db) == ["a.mp4"]


def test_a_failed_job_leaves_a_result_that_says_why(
    watch: Callable[[str], Watch], bucket: S3Store, finish_jobs: Callable[..., Any]
) -> None:
    bucket.put("in/a.mp4", b"no media")
    watching = watch("in")
    watching.looks(2)
    finish_jobs(fail=True)
    watching.looks(1)
    assert keys(bucket, "omni-results/") == ["omni-results/in/a.mp4/result.json"]
    assert b"this is no media" in bucket.get("omni-results/in/a.mp4/result.json")


def test_a_bucket_that_is_not_ours_to_read_is_not_watched(settings: Settings) -> None:
    for target in ("s3://else/in", "s3://", "file:///x"):
        with pytest.raises(UsageError):
            Bucket(target, settings)
    assert Bucket("s3://media/a/in", settings).results == "a/omni-results/in/"
    assert Bucket("s3://media", settings).results == "omni-results/"
