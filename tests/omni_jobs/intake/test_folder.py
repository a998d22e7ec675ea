"""A watched folder, by single rounds and as a process that is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from omni_jobs.blobs import BlobStore
from omni_jobs.errors import UsageError
from omni_jobs.intake.folder import Folder
from omni_jobs.intake.lister import Changed, Lister, Stopped
from omni_jobs.intake.submit import Intake
from omni_jobs.intake.terms import Terms
from omni_jobs.settings import Settings
from omni_jobs.store import jobs, ledger, tenants
from omni_jobs.store.database import rows
from tests.omni_jobs.intake.looking import Watch, entries, names
from tests.waiting import eventually

pytestmark = pytest.mark.servers


def test_a_file_is_taken_once_it_has_settled_and_once_only(
    watch: Watch, inbox: Path, db: Engine, blobs: BlobStore
) -> None:
    (inbox / "sub").mkdir()
    (inbox / "sub" / "Talk one.MP4").write_bytes(b"moov")
    watch.looks(1)
    assert names(db) == []
    watch.looks(3)
    assert names(db) == ["Talk one.MP4"]
    job = jobs.list_page(db, "default")[0]
    assert job["origin"] == "folder" and job["sources"][0]["uri"] == (inbox / "sub" / "Talk one.MP4").as_uri()
    assert blobs.get(f"default/{job['job_id']}/source/0") == b"moov"


def test_a_file_that_drips_in_is_taken_once_and_whole(watch: Watch, inbox: Path, db: Engine) -> None:
    for piece in range(6):
        with (inbox / "a.wav").open("ab") as file:
            file.write(bytes([piece]) * 10)
        watch.looks(1)
    watch.looks(3)
    found = jobs.list_page(db, "default")
    assert [job["sources"][0]["size_bytes"] for job in found] == [60]


def test_a_file_that_changes_while_it_is_read_is_taken_later(
    watch: Watch, inbox: Path, db: Engine, intake: Intake, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox / "a.wav").write_bytes(b"12345")
    keep = intake.keep

    def grow(job_id: str, data: Any) -> Any:
        stored = keep(job_id, data)
        with (inbox / "a.wav").open("ab") as file:
            file.write(b"6")
        return stored

    monkeypatch.setattr(intake, "keep", grow)
    watch.looks(2)
    assert names(db) == [] and not list(blobs.list(""))
    monkeypatch.setattr(intake, "keep", keep)
    watch.looks(3)
    assert [job["sources"][0]["size_bytes"] for job in jobs.list_page(db, "default")] == [6]


def test_a_new_version_is_a_new_job(watch: Watch, inbox: Path, db: Engine) -> None:
    (inbox / "a.wav").write_bytes(b"1")
    watch.looks(3)
    (inbox / "a.wav").write_bytes(b"22")
    watch.looks(3)
    assert names(db) == ["a.wav", "a.wav"]


def test_what_is_no_media_is_left_alone(watch: Watch, inbox: Path, db: Engine) -> None:
    (inbox / ".hidden").mkdir()
    for name in ("a.txt", "a.srt", "a.md", "a.result.json", "a.mp4.part", "b.mp4.crdownload", "c.mp4~", ".d.mp4",
                 ".hidden/e.mp4", "f", "mp4"):  # fmt: skip
        (inbox / name).write_bytes(b"x")
    watch.looks(3)
    assert names(db) == [] and entries(db) == {}


def test_links_fifos_and_what_cannot_be_taken_are_refused_with_a_reason(
    watch: Watch, inbox: Path, tmp_path: Path, db: Engine
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.mp4").write_bytes(b"secret")
    (inbox / "link.mp4").symlink_to(tmp_path / "outside" / "secret.mp4")
    (inbox / "folder").symlink_to(tmp_path / "outside")
    os.mkfifo(inbox / "pipe.mp4")
    (inbox / "large.mp4").write_bytes(bytes((1 << 20) + 1))
    Path(os.fsdecode(bytes(inbox) + b"/n\xff.mp4")).write_bytes(b"x")
    (inbox / "good.mp4").write_bytes(b"good")
    watch.looks(3)
    found = entries(db)
    assert {name for name, (state, _) in found.items() if state == "refused"} == {
        "link.mp4", "folder", "pipe.mp4", "large.mp4", "n\\xff.mp4"
    }  # fmt: skip
    assert all(reason for state, reason in found.values() if state == "refused")
    assert names(db) == ["good.mp4"]


def test_a_folder_swapped_for_a_link_after_the_look_leads_nowhere(
    watch: Watch, inbox: Path, tmp_path: Path, db: Engine, intake: Intake, settings: Settings
) -> None:
    (tmp_path / "outside").mkdir()
    (inbox / "sub").mkdir()
    (inbox / "sub" / "a.mp4").write_bytes(b"mine")
    place = Folder(inbox, settings.max_upload_bytes)
    seen = next(iter(place.look()))
    os.link(inbox / "sub" / "a.mp4", tmp_path / "outside" / "a.mp4")
    (inbox / "sub").rename(tmp_path / "moved")
    (inbox / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises((UsageError, Changed)):
        place.take(seen, intake, "", threading.Event())
    assert names(db) == []


def test_taking_in_does_not_wait_for_handing_out(
    inbox: Path, intake: Intake, settings: Settings, db: Engine, finish_jobs: Callable[..., None]
) -> None:
    stop, stuck = threading.Event(), threading.Event()

    class Slow(Folder):
        def give(self, object: str, outputs: Any) -> None:
            stuck.set()
            stop.wait(60)

    (inbox / "a.wav").write_bytes(b"x")
    loop = threading.Thread(target=Lister(Slow(inbox, 1 << 20), intake, settings, stop).run)
    loop.start()
    try:
        assert eventually(lambda: names(db) == ["a.wav"], 20)
        finish_jobs()
        assert stuck.wait(20)
        (inbox / "b.wav").write_bytes(b"x")
        assert eventually(lambda: names(db) == ["a.wav", "b.wav"], 20)
    finally:
        stop.set()
        loop.join(10)
    assert not loop.is_alive()


def test_what_there_is_no_room_for_is_taken_once_there_is(
    watch: Watch, inbox: Path, db: Engine, intake: Intake, finish_jobs: Callable[..., None], blobs: BlobStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tenants.update(db, "default", max_open_jobs=1)
    for name in ("a.wav", "b.wav", "c.wav"):
        (inbox / name).write_bytes(b"x")
    keep, kept = intake.keep, []
    monkeypatch.setattr(intake, "keep", lambda job_id, data: kept.append(job_id) or keep(job_id, data))
    watch.looks(6)
    assert names(db) == ["a.wav"] and len(kept) == 1
    assert {state for state, _ in entries(db).values()} == {"taken", "seen"}
    for taken in (2, 3):
        finish_jobs()
        watch.looks(2)
        assert len(names(db)) == taken
    assert names(db) == ["a.wav", "b.wav", "c.wav"]


def test_an_outage_is_waited_out(
    inbox: Path, intake: Intake, settings: Settings, db: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inbox / "a.wav").write_bytes(b"x")
    stop = threading.Event()
    known, down = ledger.known, [1, 2]

    def flaky(*args: Any, **more: Any) -> Any:
        if down and down.pop():
            raise OperationalError("select", {}, Exception("gone"))
        return known(*args, **more)

    monkeypatch.setattr(ledger, "known", flaky)
    loop = threading.Thread(target=Lister(Folder(inbox, 1 << 20), intake, settings, stop).run)
    loop.start()
    assert eventually(lambda: names(db) == ["a.wav"], 20)
    stop.set()
    loop.join(5)
    assert not loop.is_alive()


def test_a_long_copy_ends_when_told_to(watch: Watch, inbox: Path, db: Engine, blobs: BlobStore) -> None:
    (inbox / "a.wav").write_bytes(b"x" * 1000)
    watch.looks(1)
    watch.now += 1
    seen = watch.lister._settled()[0]
    watch.stop.set()
    with pytest.raises(Stopped):
        watch.lister._place.take(seen, watch.lister._intake, "", watch.stop)
    assert not list(blobs.list(""))


def start(inbox: Path, settings: Settings) -> "subprocess.Popen[bytes]":
    environment = {
        "PATH": "/usr/bin:/bin", "OMNI_HOME": str(settings.home), "OMNI_DATABASE_URL": settings.database_url,
        "OMNI_BLOB_URL": settings.blob_url, "OMNI_BROKER_URL": settings.broker_url, "OMNI_POLL_S": "0.05",
        "OMNI_SETTLE_S": "0.1",
    }  # fmt: skip
    return subprocess.Popen([sys.executable, "-m", "omni_jobs.intake", "watch", str(inbox)], env=environment)


def test_a_watcher_killed_again_and_again_makes_one_job_of_each_file(
    inbox: Path, settings: Settings, db: Engine
) -> None:
    wanted = [f"{number:02}.wav" for number in range(40)]
    for number, name in enumerate(wanted):
        (inbox / name).write_bytes(bytes([number]) * 200_000)
    for taken in (1, 20):
        process = start(inbox, settings)
        try:
            assert eventually(lambda taken=taken: len(names(db)) >= taken, 20)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    process = start(inbox, settings)
    try:
        assert eventually(lambda: len(names(db)) >= len(wanted), 20)
        time.sleep(0.5)
    finally:
        process.terminate()
        ended = process.wait(5)
    assert ended == 0
    assert names(db) == wanted
    with db.connect() as tx:
        digests = rows(tx, "select count(distinct sha256) as n from omni.sources where size_bytes = 200000")
    assert digests[0]["n"] == len(wanted)


def test_a_target_that_is_no_folder_is_said_so(settings: Settings, tmp_path: Path) -> None:
    process = start(tmp_path / "none", settings)
    assert process.wait(30) == 1


def test_a_watcher_asks_on_its_terms(inbox: Path, intake: Intake, settings: Settings, db: Engine) -> None:
    place = Folder(inbox, settings.max_upload_bytes, Terms(-10, "+1d", "fail"))
    (inbox / "a.wav").write_bytes(b"RIFF")
    (seen,) = place.look()
    known = {"watch": place.name, "object": seen.object, "version": seen.version}
    row = ledger.see(db, tenant_id=settings.tenant, size_bytes=4, **known)
    place.take(seen, intake, row or "", threading.Event())
    with db.connect() as tx:
        (found,) = rows(
            tx,
            """
            select priority, due_at - now() as left, options ->> 'on_gap' as on_gap from omni.jobs
            where origin_ref ->> 'watch' = :watch
            """,
            watch=place.name,
        )
    assert (found["priority"], found["on_gap"]) == (-10, "fail")
    assert timedelta(hours=23) < found["left"] <= timedelta(days=1)


def test_a_deadline_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from omni_jobs.intake.__main__ import main

    assert main(["watch", str(tmp_path), "--deadline", "soon"]) == 1
    assert "expected a time" in capsys.readouterr().err
