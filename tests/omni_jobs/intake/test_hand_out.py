"""Results beside the files of a watched folder."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from omni_jobs.blobs import BlobStore
from omni_jobs.intake.submit import Intake
from omni_jobs.result import Result
from omni_jobs.store import jobs
from tests.omni_jobs.intake.looking import Watch, entries, files, names

pytestmark = pytest.mark.servers


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
