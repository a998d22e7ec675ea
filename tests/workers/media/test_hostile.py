"""Every hostile file of the developer media, at the level of media: a typed error, or what is really in it."""

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from omni_jobs.errors import SourceError
from omni_jobs.job import Medium
from tests.conftest import MEDIA
from tests.workers.media.tiny import Writer, plain_pictures
from workers.media import audio, document, image, probe, video
from workers.media.document import PageFailure
from workers.media.inside import containers
from workers.media.sandbox import Limits

MANIFEST = MEDIA / "MANIFEST.json"
RECORDS = (
    [record for record in json.loads(MANIFEST.read_text())["files"] if record["file"].startswith("hostile/")]
    if MANIFEST.exists()
    else []
)
LIMITS = Limits(memory_bytes=1 << 30, timeout_s=60)


@dataclass
class Outcome:
    """What became of a file."""

    error: str | None = None
    medium: str = ""
    duration_s: float = 0.0
    frames: int = 0
    pages: int = 0
    text: str = ""
    partial: bool = False
    details: list[str] = field(default_factory=list)


def outcome_of(path: Path, scratch: Path) -> Outcome:
    with path.open("rb") as source:
        try:
            found = probe.probe(source, LIMITS)
            return READERS[found.medium](source, scratch, found)
        except SourceError as error:
            assert str(error)
            assert "Traceback" not in str(error)
            return Outcome(str(error.type), details=[str(error)])


def read_audio(source: BinaryIO, scratch: Path, found: probe.Probe) -> Outcome:
    sound = audio.decode(source, LIMITS, scratch)
    return Outcome(None, "audio", sound.end_s, partial=bool(sound.gaps))


def read_video(source: BinaryIO, scratch: Path, found: probe.Probe) -> Outcome:
    scan = video.scan(source, LIMITS)
    (first,) = video.frames(source, LIMITS, [scan.start_s])
    assert first.jpeg.startswith(b"\xff\xd8")
    if found.audio is not None:
        audio.decode(source, LIMITS, scratch)
    return Outcome(None, "video", scan.end_s, len(scan.times_s), partial=bool(scan.gaps))


def read_pages(source: BinaryIO, scratch: Path, found: probe.Probe) -> Outcome:
    read = document.pages if found.medium is Medium.DOCUMENT else image.page
    outcome = Outcome(None, str(found.medium))
    failures: list[PageFailure] = []
    for page in read(source, LIMITS):
        if isinstance(page, PageFailure):
            failures.append(page)
            continue
        outcome.pages += 1
        outcome.text += " ".join(word.text for word in page.words) + "\n"
    outcome.partial = bool(failures)
    if not outcome.pages:
        return Outcome(str(failures[0].problem.type), details=[failures[0].problem.message])
    return outcome


READERS: dict[Medium, Callable[[BinaryIO, Path, probe.Probe], Outcome]] = {
    Medium.AUDIO: read_audio,
    Medium.VIDEO: read_video,
    Medium.IMAGE: read_pages,
    Medium.DOCUMENT: read_pages,
}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["file"].removeprefix("hostile/"))
def test_a_hostile_file_ends_as_expected(record: dict[str, Any], media: Path, tmp_path: Path) -> None:
    outcome = outcome_of(media / record["file"], tmp_path)
    expected = record["expected"]
    if outcome.error is not None:
        assert outcome.error in expected.get("error", ()), outcome
        return
    assert "ok" in expected, f"expected {expected['error']}, got {outcome}"
    check(expected["ok"], outcome, media, tmp_path)


def check(ok: dict[str, Any], outcome: Outcome, media: Path, scratch: Path) -> None:
    """Each claim of the manifest that concerns decoding; what was heard or read belongs to others."""
    if "as" in ok:
        assert outcome.medium == ok["as"]
    if "duration" in ok:
        assert outcome.duration_s == pytest.approx(ok["duration"], abs=0.05)
    if "max_duration" in ok:
        assert outcome.duration_s <= ok["max_duration"]
    if "duration_of" in ok:
        whole = outcome_of(media / ok["duration_of"], scratch)
        assert (outcome.duration_s, outcome.frames) == (pytest.approx(whole.duration_s, abs=0.05), whole.frames)
    if "frames" in ok:
        assert outcome.frames == ok["frames"]
    if "pages" in ok:
        assert outcome.pages == ok["pages"]
    if "text_contains" in ok:
        assert ok["text_contains"] in outcome.text
    if "same_text_as" in ok:
        assert outcome.text == outcome_of(media / ok["same_text_as"], scratch).text


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{canary}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:{port}/canary.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{canary}'\n",
        "ffconcat version 1.0\nfile canary.ts\n",
        "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static' "
        "mediaPresentationDuration='PT2S'><Period><AdaptationSet mimeType='video/mp4'>"
        "<Representation id='1' bandwidth='1'>"
        "<BaseURL>http://127.0.0.1:{port}/canary.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
        "<svg xmlns='http://www.w3.org/2000/svg'><image href='{canary}'/></svg>",
    ],
    ids=["hls-file", "hls-http", "concat", "concat-beside", "dash", "svg"],
)
@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
def test_a_list_of_other_files_reads_none_of_them(text: str, name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary.ts"
    writer = Writer(canary, "mpegts")
    writer.video(writer.add_video("mpeg2video", fps=25), plain_pictures(10))
    writer.close()
    with socket.create_server(("127.0.0.1", 0)) as server:
        hits = listen(server)
        path = tmp_path / name
        path.write_text(text.format(canary=canary, port=server.getsockname()[1]))
        with path.open("rb") as source, pytest.raises(SourceError) as caught:
            video.scan(source, LIMITS)
    assert caught.value.type in ("unreadable", "unsupported")
    assert hits == []


def test_the_lists_of_formats_alone_refuse_a_playlist(tmp_path: Path) -> None:
    """In this process, which may open files: the child's closed door is the second line, not the only one."""
    canary = tmp_path / "canary.ts"
    writer = Writer(canary, "mpegts")
    writer.video(writer.add_video("mpeg2video", fps=25), plain_pictures(10))
    writer.close()
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\ncanary.ts\n#EXT-X-ENDLIST\n"
    for name, text in (("list.m3u8", hls), ("list.mp4", "ffconcat version 1.0\nfile canary.ts\n")):
        path = tmp_path / name
        path.write_text(text)
        with path.open("rb") as source, pytest.raises(SourceError):
            containers.opened(source)


def listen(server: socket.socket) -> list[object]:
    """The peers that connect from now on."""
    hits: list[object] = []

    def accept() -> None:
        try:
            while True:
                hits.append(server.accept()[1])
        except OSError:
            return

    threading.Thread(target=accept, daemon=True).start()
    return hits


def test_a_movie_that_names_another_file_reads_it_not(tmp_path: Path) -> None:
    """A `dref` of a QuickTime movie made to point at another file: its own bytes are read, or nothing."""
    path = tmp_path / "plain.mov"
    writer = Writer(path, "mov")
    writer.video(writer.add_video("mpeg4"), plain_pictures(5))
    writer.close()
    data = bytearray(path.read_bytes())
    at = data.index(b"url \0\0\0\1")
    data[at : at + 8] = b"alis\0\0\0\0"  # no longer "in this file"
    path.write_bytes(data)
    with path.open("rb") as source:
        try:
            assert len(video.scan(source, LIMITS).times_s) <= 5
        except SourceError as error:
            assert error.type in ("unreadable", "unsupported", "empty")
