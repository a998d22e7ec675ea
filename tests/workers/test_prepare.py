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
from omni_jobs.store import claims, jobs, objects, reuse, sources, submissions, units, workers
from omni_jobs.store.claims import Claimed
from omni_jobs.store.submissions import NewJob, NewSource
from tests.workers.media.tiny import Writer, plain_pictures
from tests.workers.media.tiny import tone as wave
from tests.workers.parts import make_parts
from workers import prepare, snapshot
from workers.context import CancelledUnit, Context, NotNow, Parts
from workers.cutting import REASONS
from workers.inputs import CanonicalClip

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
        submissions.insert(db, NewJob("acme", (source,), Options(**options).model_dump(mode="json")))
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


def film(path: Path, *, sound_s: float, picture_s: float, pts: list[int] | None = None) -> Path:
    """A Matroska of a tone and grey frames, ten a second; without a second of sound its track is empty."""
    writer = Writer(path, "matroska")
    sound, picture = writer.add_sound("flac", 16_000), writer.add_video("libx264", g="10")
    sound.codec_context.open(strict=False)
    writer.video(picture, plain_pictures(len(pts) if pts else round(10 * picture_s)), pts)
    if sound_s:
        writer.sound(sound, wave(16_000, sound_s))
    writer.close()
    return path


def prepared(parts: Parts, unit: Claimed) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The source's row, and the inputs of its units by kind."""
    prepare.run(unit, Context(parts, unit))
    (source,) = sources.of_job(parts.db, unit.job_id)
    found: dict[str, list[dict[str, Any]]] = {"span": [], "clip": []}
    for one in units.answers(parts.db, unit.job_id, 1):
        found.setdefault(one["kind"], []).append(one["input"])
    return source, found


def test_what_stays_on_screen_is_in_each_clip_that_shows_it(parts: Parts, submit: Any, tmp_path: Path) -> None:
    """A slide from second 10 to 290: the clips are cut at 120 and 240 s."""
    path = film(tmp_path / "shelf" / "a.mkv", sound_s=1, picture_s=0, pts=[0, 1, 100, 2900, 2901])
    _, found = prepared(parts, submit(path))
    clips = [CanonicalClip.from_bytes(parts.blobs.get(clip["blob"])) for clip in found["clip"]]
    assert len(clips) == 3
    for clip in clips:
        assert all(clip.start_s <= frame.time_s < clip.end_s for frame in clip.frames)
    assert [clip.frames[0].time_s for clip in clips[1:]] == [clips[1].start_s, clips[2].start_s]
    assert clips[1].frames[0].jpeg == clips[0].frames[-1].jpeg == clips[2].frames[0].jpeg


@pytest.mark.parametrize(
    ("sound_s", "picture_s", "start_s", "kinds", "lost"),
    [
        (0, 8, 0, {"clip"}, "audio"),
        (3, 8, 5, {"clip"}, "audio"),
        (8, 4, 5, {"span"}, "video"),
    ],
    ids=["an empty track", "sound before the part", "pictures before the part"],
)
def test_one_medium_without_content_costs_the_other_nothing(
    sound_s: float,
    picture_s: float,
    start_s: float,
    kinds: set[str],
    lost: str,
    parts: Parts,
    submit: Any,
    tmp_path: Path,
) -> None:
    path = film(tmp_path / "shelf" / "a.mkv", sound_s=sound_s, picture_s=picture_s)
    source, found = prepared(parts, submit(path, start_s=start_s))
    assert {kind for kind, inputs in found.items() if inputs} - {"prepare", "speakers"} == kinds
    assert source["error"] is None
    assert source["duration_s"] == pytest.approx(8, abs=0.1)
    assert source["probe"][lost]["problem"]
    if lost == "video":  # where there is no sound there is silence; missing pictures are named
        ((medium, begin, end, reason),) = source["gaps"]
        assert (medium, begin, end) == ("video", 5.0, pytest.approx(8, abs=0.1))
        assert "the pictures end at 4.0 s" in reason
    else:
        assert source["gaps"] == []


def test_a_damaged_sound_track_is_a_gap_and_the_pictures_go_on(parts: Parts, submit: Any, tmp_path: Path) -> None:
    def broken(*args: Any, **_: Any) -> None:
        raise SourceError("unreadable", "expected sound that decodes, and no part of this file's does")

    path = film(tmp_path / "shelf" / "a.mkv", sound_s=4, picture_s=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.media.audio.decode", broken)
        source, found = prepared(parts, submit(path))
        assert len(found["clip"]) == 1
        assert source["gaps"] == [["speech", 0.0, pytest.approx(4, abs=0.1), str(source["probe"]["audio"]["problem"])]]
        source, found = prepared(parts, submit(path, tasks=["caption"]))
        assert (len(found["clip"]), source["gaps"]) == (1, [])


@pytest.mark.parametrize(("task", "type"), [("transcribe", "empty"), ("caption", "empty")])
def test_a_medium_that_alone_was_asked_for_and_is_not_there_is_an_error(
    task: str, type: str, parts: Parts, submit: Any, tmp_path: Path
) -> None:
    seconds = {"sound_s": 8, "picture_s": 4} if task == "caption" else {"sound_s": 3, "picture_s": 8}
    unit = submit(film(tmp_path / "shelf" / "a.mkv", **seconds), tasks=[task], start_s=5)
    prepare.run(unit, Context(parts, unit))
    assert jobs.get(parts.db, "acme", unit.job_id)["error"]["type"] == type


def test_the_length_is_the_files_whatever_part_was_asked_for(parts: Parts, submit: Any, tmp_path: Path) -> None:
    sound, found = prepared(parts, submit(tone(tmp_path / "shelf" / "a.wav", 20.0), end_s=3))
    assert sound["duration_s"] == pytest.approx(20, abs=0.01)
    assert found["span"][-1]["end_s"] == pytest.approx(3, abs=0.01)
    both, found = prepared(parts, submit(film(tmp_path / "shelf" / "a.mkv", sound_s=7, picture_s=8), end_s=3))
    assert both["duration_s"] == pytest.approx(8, abs=0.01)
    assert found["clip"][-1]["end_s"] == 3


def test_a_file_that_ends_before_the_end_that_was_asked_for_has_a_gap(
    parts: Parts, submit: Any, tmp_path: Path
) -> None:
    path = tone(tmp_path / "shelf" / "a.wav", 10.0)
    path.write_bytes(path.read_bytes()[: -4 * 32_000])
    source, _ = prepared(parts, submit(path, end_s=9))
    assert source["gaps"] == [["speech", pytest.approx(6, abs=0.01), 9.0, REASONS["missing"]]]
    assert source["duration_s"] == pytest.approx(10, abs=0.01)
    # Coverage says it before each reason.
    assert not any("could not be decoded" in reason for reason in REASONS.values())


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
