"""Preparation on a real database and a folder as object store: what becomes of a source before anything is asked."""

import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pymupdf
import pytest
from sqlalchemy import Engine

from omni_jobs.errors import SourceError
from omni_jobs.job import Pool
from omni_jobs.options import Options
from omni_jobs.settings import Settings
from omni_jobs.store import claims, jobs, objects, reuse, sources, units, workers
from omni_jobs.store.claims import Claimed
from omni_jobs.store.jobs import NewJob, NewSource
from tests.workers.parts import make_parts
from workers import prepare, snapshot
from workers.context import CancelledUnit, Context, NotNow, Parts

pytestmark = pytest.mark.servers


def tone(path: Path, seconds: float = 2.0, rate: int = 16000) -> Path:
    """A WAV of a sine."""
    samples = (8000 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.int16)
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def parts(db: Engine, tmp_path: Path) -> Parts:
    settings = Settings(
        blob_url=f"file://{tmp_path}/blobs", file_roots=(tmp_path / "shelf",), min_free_bytes=0, home=tmp_path / "home"
    )
    (tmp_path / "shelf").mkdir()
    return make_parts(db, settings, tmp_path)


@pytest.fixture
def submit(db: Engine) -> Iterator[Callable[..., Claimed]]:
    worker = workers.register(db, pool="cpu", host="h", pid=1, pid_started=1, version="t", backend=None)

    def make(path: Path, uri: str = "", **options: Any) -> Claimed:
        source = NewSource(uri or path.as_uri(), path.name)
        jobs.insert(db, NewJob("acme", (source,), Options(**options).model_dump(mode="json")))
        (unit,) = claims.claim(db, worker, Pool.CPU, 1)
        return unit

    yield make


def test_sound_becomes_spans_that_lie_in_the_store(parts: Parts, submit: Any, tmp_path: Path) -> None:
    unit = submit(tone(tmp_path / "shelf" / "a.wav"))
    assert prepare.run(unit, Context(parts, unit)) == {Pool.GPU}
    (span,) = [one for one in units.answers(parts.db, unit.job_id, 1) if one["kind"] == "span"]
    assert span["input"]["end_s"] == pytest.approx(2.0, abs=0.01)
    assert len(parts.blobs.get(span["input"]["blob"])) == pytest.approx(64044, abs=200)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_job_of_a_newer_version_is_prepared_all_the_same(parts: Parts, submit: Any, tmp_path: Path) -> None:
    unit = submit(tone(tmp_path / "shelf" / "a.wav"))
    newer = replace(unit, options={"option_of_tomorrow": 1})
    assert prepare.run(newer, Context(parts, newer)) == {Pool.GPU}


def test_what_is_overwritten_later_is_answered_as_it_was(parts: Parts, submit: Any, tmp_path: Path) -> None:
    path = tone(tmp_path / "shelf" / "a.wav")
    before = path.read_bytes()
    unit = submit(path)
    prepare.run(unit, Context(parts, unit))
    path.write_bytes(b"something else")
    (source,) = sources.of_job(parts.db, unit.job_id)
    assert parts.blobs.get(source["snapshot"]) == before


@pytest.mark.parametrize(
    ("uri", "type"),
    [("file:///etc/hostname", "unsupported"), ("file:///nowhere/x.wav", "unreadable"), ("ftp://x/y", "unsupported")],
)
def test_a_place_that_is_not_allowed_ends_the_job_with_a_reason(
    parts: Parts, submit: Any, tmp_path: Path, uri: str, type: str
) -> None:
    unit = submit(tmp_path / "x.wav", uri=uri)
    prepare.run(unit, Context(parts, unit))
    job = jobs.get(parts.db, "acme", unit.job_id)
    assert (job["state"], job["error"]["type"]) == ("failed", type)


def test_a_link_out_of_the_allowed_folder_is_not_followed(parts: Parts, submit: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(tone(tmp_path / "shelf" / "a.wav").read_bytes())
    (tmp_path / "shelf" / "link.wav").symlink_to(tmp_path / "secret.wav")
    unit = submit(tmp_path / "shelf" / "link.wav")
    prepare.run(unit, Context(parts, unit))
    assert jobs.get(parts.db, "acme", unit.job_id)["error"]["type"] == "unsupported"


@pytest.mark.parametrize(("task", "type"), [("caption", "no_video"), ("document", "unsupported")])
def test_a_task_that_the_medium_cannot_have_is_refused(
    parts: Parts, submit: Any, tmp_path: Path, task: str, type: str
) -> None:
    unit = submit(tone(tmp_path / "shelf" / "a.wav"), tasks=[task])
    prepare.run(unit, Context(parts, unit))
    assert jobs.get(parts.db, "acme", unit.job_id)["error"]["type"] == type


def test_without_room_on_the_disk_it_waits_and_says_so(parts: Parts, submit: Any, tmp_path: Path) -> None:
    full = replace(parts, settings=parts.settings.model_copy(update={"min_free_bytes": 2**62}))
    unit = submit(tone(tmp_path / "shelf" / "a.wav"))
    with pytest.raises(NotNow, match="waiting for free disk"):
        prepare.run(unit, Context(full, unit))
    assert prepare.run(unit, Context(parts, unit)) == {Pool.GPU}


def test_a_cancelled_preparation_stops(parts: Parts, submit: Any, tmp_path: Path) -> None:
    unit = submit(tone(tmp_path / "shelf" / "a.wav"))
    context = Context(parts, unit)
    context.cancel.set()
    with pytest.raises(CancelledUnit):
        prepare.run(unit, context)


def test_other_bytes_than_were_put_are_not_answered(parts: Parts, submit: Any, tmp_path: Path) -> None:
    unit = submit(tone(tmp_path / "shelf" / "a.wav"))
    spoil(parts, unit)
    with pytest.raises(SourceError, match="other bytes than were put"):
        prepare.run(unit, Context(parts, unit))


def spoil(parts: Parts, unit: Claimed) -> None:
    """Give a source a snapshot that is not what its row says."""
    objects.reserve(parts.db, prefix="acme/k", tenant_id="acme", job_id=unit.job_id)
    parts.blobs.put("acme/k", b"RIFF....")
    sources.keep_snapshot(parts.db, unit, unit.source_id or "", key="acme/k", sha256="0" * 64, size_bytes=8)


@pytest.mark.parametrize("gone", [False, True], ids=["other", "gone"])
def test_a_damaged_snapshot_is_taken_anew_by_the_next_attempt(
    gone: bool, parts: Parts, submit: Any, tmp_path: Path
) -> None:
    unit = submit(tone(tmp_path / "shelf" / "a.wav"))
    spoil(parts, unit)
    if gone:
        parts.blobs.delete("acme/k")
    with pytest.raises(SourceError) as caught:
        prepare.run(unit, Context(parts, unit))
    assert caught.value.problem.retryable
    assert "acme/k" in [one["prefix"] for one in objects.garbage(parts.db)]
    assert prepare.run(unit, Context(parts, unit)) == {Pool.GPU}


def test_a_damaged_snapshot_of_what_was_handed_in_stays(parts: Parts, submit: Any, tmp_path: Path) -> None:
    unit = submit(tone(tmp_path / "shelf" / "a.wav"), uri="upload:a.wav")
    spoil(parts, unit)
    with pytest.raises(SourceError, match="other bytes than were put"):
        prepare.run(unit, Context(parts, unit))
    assert sources.of_job(parts.db, unit.job_id)[0]["snapshot"] == "acme/k"


def test_copies_count_as_moves(parts: Parts, submit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the snapshot in both directions, and of each span: else a slow store costs the lease."""
    unit = submit(tone(tmp_path / "shelf" / "a.wav"))
    context = Context(parts, unit)
    moves: list[tuple[str, int]] = []

    class Seen:
        def __getattr__(self, name: str) -> Any:
            return getattr(parts.blobs, name)

        def put(self, key: str, data: Any, media_type: str = "") -> Any:
            before = context.moves
            stored = parts.blobs.put(key, data)
            moves.append(("put", context.moves - before))
            return stored

        def open(self, key: str) -> Iterator[bytes]:
            before = context.moves
            yield from parts.blobs.open(key)
            moves.append(("open", context.moves - before))

    context.parts = replace(parts, blobs=Seen())
    prepare.run(unit, context)
    assert [way for way, _ in moves] == ["put", "open", "put"]
    assert all(count for _, count in moves), moves


def test_a_disk_that_fills_up_makes_it_wait(
    parts: Parts, submit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = submit(tone(tmp_path / "shelf" / "a.wav"))

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(snapshot, "fetch", full)
    with pytest.raises(NotNow, match="waiting for free disk"):
        prepare.run(unit, Context(parts, unit))


def test_room_is_wanted_for_the_source_and_its_sound(
    parts: Parts, submit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 64 kB and two seconds of sound, 64 kB more, beside a reserve of 0."""
    unit = submit(tone(tmp_path / "shelf" / "a.wav"))
    usage = shutil.disk_usage(tmp_path)
    for free, enough in ((40_000, False), (64_300, True), (63_900, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        if enough:
            prepare.run(unit, Context(parts, unit))
            continue
        with pytest.raises(NotNow, match="waiting for free disk"):
            prepare.run(unit, Context(parts, unit))


@pytest.fixture
def locked_pdf(tmp_path: Path) -> Path:
    pdf = pymupdf.open()
    pdf.new_page().insert_text((30, 50), "Secret")
    (tmp_path / "shelf").mkdir(exist_ok=True)
    path = tmp_path / "shelf" / "a.pdf"
    pdf.save(path, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="sesame", owner_pw="o")
    return path


@pytest.mark.parametrize("password", ["", "wrong"])
def test_answers_of_an_encrypted_source_are_only_for_who_knows_the_password(
    password: str, parts: Parts, submit: Any, locked_pdf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = submit(locked_pdf)
    first.secret["password"] = "sesame"
    prepare.run(first, Context(parts, first))
    monkeypatch.setattr(reuse, "delivered_twin", lambda *args, **_: first.source_id)

    stranger = submit(locked_pdf)
    stranger.secret["password"] = password
    prepare.run(stranger, Context(parts, stranger))
    assert jobs.get(parts.db, "acme", stranger.job_id)["error"]["type"] == "encrypted"

    friend = submit(locked_pdf)
    friend.secret["password"] = "sesame"
    prepare.run(friend, Context(parts, friend))
    assert jobs.get(parts.db, "acme", friend.job_id)["reused_from"] is not None
