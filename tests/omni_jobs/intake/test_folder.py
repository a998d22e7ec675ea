"""A watched folder, by single rounds and as a process that is killed."""

import errno
import json
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
from omni_jobs.result import Result
from omni_jobs.settings import Settings
from omni_jobs.store import jobs, ledger, tenants
from omni_jobs.store.database import rows
from tests.waiting import eventually

pytestmark = pytest.mark.servers


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


class Watch:
    """A lister whose clock is ours: each look is a second after the one before."""

    def __init__(self, inbox: Path, intake: Intake, settings: Settings) -> None:
        self.now = 0.0
        self.stop = threading.Event()
        self.lister = Lister(
            Folder(inbox, settings.max_upload_bytes), intake, settings, self.stop, clock=lambda: self.now
        )

    def looks(self, times: int = 2) -> None:
        for _ in range(times):
            self.now += 1
            self.lister.take_in()
            self.lister.hand_out()


@pytest.fixture
def watch(inbox: Path, intake: Intake, settings: Settings) -> Watch:
    return Watch(inbox, intake, settings)


def entries(db: Engine) -> dict[str, tuple[str, str | None]]:
    with db.connect() as tx:
        found = rows(tx, "select object, state, reason from omni.ledger order by ledger_id")
    return {one["object"]: (one["state"], one["reason"]) for one in found}


def names(db: Engine) -> list[str]:
    return sorted(job["name"] for job in jobs.list_page(db, "default", limit=100))


def files(inbox: Path) -> set[str]:
    return {path.relative_to(inbox).as_posix() for path in inbox.rglob("*") if path.is_file() and path.name[0] != "."}


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


def test_results_lie_beside_their_source(
    watch: Watch, inbox: Path, db: Engine, finish_jobs: Callable[..., None]
) -> None:
    (inbox / "sub").mkdir()
    (inbox / "sub" / "talk.mp4").write_bytes(b"x")
    watch.looks(2)
    finish_jobs()
    watch.looks(1)
    assert files(inbox) == {"sub/talk.mp4", "sub/talk.result.json", "sub/talk.srt", "sub/talk.txt"}
    assert (inbox / "sub" / "talk.txt").read_bytes() == b"Hi\n"
    assert entries(db) == {"sub/talk.mp4": ("delivered", None)}
    watch.looks(3)
    assert names(db) == ["talk.mp4"]


def test_files_of_the_user_are_never_touched(watch: Watch, inbox: Path, finish_jobs: Callable[..., None]) -> None:
    for name, text in (("a.mp4", "x"), ("a.txt", "my notes"), ("b.mp4", "x"), ("b.srt", "mine"), ("b.mp4.srt", "mine")):
        (inbox / name).write_text(text)
    watch.looks(2)
    finish_jobs()
    watch.looks(1)
    assert (inbox / "a.txt").read_text() == "my notes" and (inbox / "a.mp4.txt").read_text() == "Hi\n"
    assert not (inbox / "a.srt").exists()
    assert (inbox / "b.srt").read_text() == (inbox / "b.mp4.srt").read_text() == "mine"
    assert (inbox / "b.mp4.2.srt").exists() and not (inbox / "b.mp4.txt").exists()


def test_sources_of_one_stem_do_not_share_their_results(
    watch: Watch, inbox: Path, finish_jobs: Callable[..., None]
) -> None:
    (inbox / "x.mp4").write_bytes(b"1")
    watch.looks(2)
    finish_jobs(text=b"of the video\n")
    watch.looks(1)
    (inbox / "x.mp3").write_bytes(b"2")
    watch.looks(2)
    finish_jobs(text=b"of the sound\n")
    watch.looks(1)
    assert (inbox / "x.txt").read_text() == "of the video\n"
    assert (inbox / "x.mp3.txt").read_text() == "of the sound\n"


def test_a_new_version_replaces_its_results_unless_the_user_changed_them(
    watch: Watch, inbox: Path, finish_jobs: Callable[..., None]
) -> None:
    for round in range(3):
        (inbox / "a.wav").write_bytes(b"x" * (round + 1))
        watch.looks(2)
        finish_jobs(text=b"version %d\n" % round)
        watch.looks(1)
        if round == 1:
            assert (inbox / "a.txt").read_text() == "version 1\n" and not (inbox / "a.wav.txt").exists()
            (inbox / "a.txt").write_text("corrected by hand")
    assert (inbox / "a.txt").read_text() == "corrected by hand"
    assert (inbox / "a.wav.txt").read_text() == "version 2\n"


@pytest.mark.parametrize("after", range(4))
def test_a_hand_out_that_is_cut_short_is_completed(
    watch: Watch, inbox: Path, finish_jobs: Callable[..., None], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    from omni_jobs.intake.within import Within

    for version in (b"1", b"22"):
        (inbox / "a.wav").write_bytes(version)
        watch.looks(2)
        finish_jobs(text=version)
        calls = 0

        def cut(self: Within, name: str, draft: str, act: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == after + 1:
                raise KeyboardInterrupt
            act(self, name, draft)

        with monkeypatch.context() as patch:
            for verb in ("publish", "replace"):
                act = getattr(Within, verb)
                patch.setattr(Within, verb, lambda self, name, draft, act=act: cut(self, name, draft, act))
            with pytest.raises(KeyboardInterrupt):
                watch.looks(1)
        watch.looks(1)
        assert files(inbox) == {"a.wav", "a.result.json", "a.srt", "a.txt"}
        assert (inbox / "a.txt").read_bytes() == version


def test_a_new_version_that_fails_takes_away_what_the_old_one_left(
    watch: Watch, inbox: Path, finish_jobs: Callable[..., None]
) -> None:
    for name in ("a.wav", "b.wav"):
        (inbox / name).write_bytes(b"x")
    watch.looks(2)
    finish_jobs()
    watch.looks(1)
    (inbox / "a.txt").write_text("corrected by hand")
    (inbox / "a.vtt").write_text("mine")
    (inbox / "a.wav").write_bytes(b"no media")
    watch.looks(2)
    finish_jobs(fail=True)
    watch.looks(1)
    assert {name for name in files(inbox) if name.startswith("a")} == {
        "a.wav", "a.result.json", "a.txt", "a.vtt"
    }  # fmt: skip
    assert json.loads((inbox / "a.result.json").read_text())["job"]["state"] == "failed"
    assert {name for name in files(inbox) if name.startswith("b")} == {"b.wav", "b.result.json", "b.srt", "b.txt"}


def test_the_list_of_what_is_ours_is_written_once_for_all_files(
    watch: Watch, inbox: Path, finish_jobs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from omni_jobs.intake.beside import Index

    (inbox / "a.wav").write_bytes(b"x")
    watch.looks(2)
    finish_jobs()
    write, written = Index.write, []
    monkeypatch.setattr(Index, "write", lambda index, folder: written.append(set(index.files)) or write(index, folder))
    watch.looks(1)
    assert written == [{"a.result.json", "a.srt", "a.txt"}]


@pytest.mark.parametrize("name", ["n" * 240 + ".flac", "ä" * 124 + ".flac", "n" * 250 + ".mp4"])
def test_a_source_with_a_long_name_gets_its_results(
    watch: Watch, inbox: Path, db: Engine, finish_jobs: Callable[..., None], name: str
) -> None:
    (inbox / name).write_bytes(b"x")
    watch.looks(2)
    finish_jobs()
    watch.looks(1)
    assert entries(db) == {name: ("delivered", None)}
    assert len(files(inbox)) == 4


def test_long_names_that_begin_alike_do_not_share_their_results(
    watch: Watch, inbox: Path, finish_jobs: Callable[..., None]
) -> None:
    for number in range(3):
        (inbox / f"{'n' * 240}{number}.wav").write_bytes(bytes([number]))
        watch.looks(2)
        finish_jobs(text=b"%d" % number)
        watch.looks(1)
    assert sorted(path.read_bytes() for path in inbox.glob("*.txt")) == [b"0", b"1", b"2"]


def test_drafts_are_nobody_elses_and_those_that_were_left_behind_go(
    watch: Watch, inbox: Path, finish_jobs: Callable[..., None]
) -> None:
    mine = {".a.txt.part", ".omni-results.part", ".omni-results-me.part", ".omni-results-old.part"}
    for name in mine:
        (inbox / name).write_text("mine")
    os.utime(inbox / ".omni-results-old.part", (0, 0))
    (inbox / "a.wav").write_bytes(b"x")
    watch.looks(2)
    finish_jobs()
    watch.looks(1)
    left = {path.name for path in inbox.iterdir() if path.name[0] == "."}
    assert left == mine - {".omni-results-old.part"} | {".omni-results"}


def test_a_result_that_cannot_be_handed_out_stops_no_other(
    watch: Watch, inbox: Path, db: Engine, blobs: BlobStore, finish_jobs: Callable[..., None]
) -> None:
    for name in ("a.wav", "b.wav"):
        (inbox / name).write_bytes(b"x")
        watch.looks(2)
    finish_jobs()
    first = next(job for job in jobs.list_page(db, "default") if job["name"] == "a.wav")
    blobs.put(f"default/{first['job_id']}/1/1/text.txt", b"damaged")
    watch.looks(1)
    assert files(inbox) >= {"b.result.json", "b.txt", "b.srt"}
    assert entries(db)["b.wav"] == ("delivered", None)
    state, reason = entries(db)["a.wav"]
    assert state == "taken" and reason and reason.startswith("damaged: the stored text.txt")
    tried = 0
    for _ in range(400):
        watch.looks(1)
        state, reason = entries(db)["a.wav"]
        if state == "delivered":
            break
        tried = int((reason or "").rpartition("tried ")[2].split()[0])
    assert state == "delivered" and reason and reason.startswith("damaged:") and tried == 7
    assert not {name for name in files(inbox) if name.startswith("a.")} - {"a.wav"}


def test_a_full_disk_is_waited_out_for_as_long_as_it_lasts(
    watch: Watch, inbox: Path, db: Engine, finish_jobs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from omni_jobs.intake.within import Within

    (inbox / "a.wav").write_bytes(b"x")
    watch.looks(2)
    finish_jobs()

    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Within, "draft", full)
        for _ in range(40):
            watch.now += 300
            watch.lister.hand_out()
    state, reason = entries(db)["a.wav"]
    assert state == "taken" and reason and reason.startswith("unavailable: ") and "No space left" in reason
    watch.now += 300
    watch.lister.hand_out()
    assert entries(db)["a.wav"] == ("delivered", None) and (inbox / "a.txt").exists()


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


def test_a_job_that_is_tried_again_hands_out_its_new_result(
    watch: Watch, inbox: Path, db: Engine, intake: Intake, finish_jobs: Callable[..., None]
) -> None:
    (inbox / "a.wav").write_bytes(b"x")
    watch.looks(2)
    finish_jobs(fail=True)
    watch.looks(1)
    assert files(inbox) == {"a.wav", "a.result.json"}
    intake.retry(str(jobs.list_page(db, "default")[0]["job_id"]), {})
    finish_jobs()
    watch.looks(1)
    assert files(inbox) == {"a.wav", "a.result.json", "a.srt", "a.txt"}


def test_a_failed_job_leaves_a_result_that_says_why(
    watch: Watch, inbox: Path, finish_jobs: Callable[..., None]
) -> None:
    (inbox / "a.wav").write_bytes(b"x")
    watch.looks(2)
    finish_jobs(fail=True)
    watch.looks(1)
    found = Result.model_validate(json.loads((inbox / "a.result.json").read_text()))
    assert found.job.state == "failed" and found.sources[0].error is not None
    assert found.sources[0].error.message == "this is no media"
    assert files(inbox) == {"a.wav", "a.result.json"}


def test_a_place_that_is_gone_is_noted_and_the_others_are_served(
    watch: Watch, inbox: Path, db: Engine, finish_jobs: Callable[..., None]
) -> None:
    (inbox / "sub").mkdir()
    for name in ("sub/a.wav", "b.wav"):
        (inbox / name).write_bytes(b"x")
    watch.looks(2)
    finish_jobs()
    (inbox / "sub" / "a.wav").unlink()
    (inbox / "sub").rmdir()
    watch.looks(1)
    assert (inbox / "b.txt").exists()
    state, reason = entries(db)["sub/a.wav"]
    assert state == "delivered" and reason and "the API has them" in reason


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
