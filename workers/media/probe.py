"""What a source is: its medium by its bytes, its streams, its length or pages."""

import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from omni_jobs.errors import ErrorType, SourceError
from omni_jobs.job import Medium
from workers.media.magic import HEAD_BYTES, Family, family
from workers.media.sandbox import Limits, run
from workers.media.wire import Message

LONGEST_TAG = 300


@dataclass(frozen=True, slots=True)
class AudioStream:
    """The sound stream that is decoded: the default one, else the first."""

    codec: str
    rate_hz: int
    channels: int
    start_s: float
    duration_s: float | None
    language: str = ""


@dataclass(frozen=True, slots=True)
class VideoStream:
    """The video stream that is decoded; size as stored, `rotation` in degrees clockwise shows it upright."""

    codec: str
    width_px: int
    height_px: int
    fps: float | None
    rotation: int
    start_s: float
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found, before anything is decoded in full.

    Attributes:
        container: the file format by its bytes (`mp4`, `matroska`, `pdf`, `jpeg`, ...).
        duration_s: end of the longest stream as promised; decoding may find less.
        pages: of a document or a picture file.
        encrypted: it opens with a password alone.
        metadata: title, author and the like as the file has them: a stranger's text.
    """

    medium: Medium
    container: str
    duration_s: float | None = None
    audio: AudioStream | None = None
    video: VideoStream | None = None
    pages: int | None = None
    encrypted: bool = False
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.metadata.get("title", "")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def probe(source: BinaryIO, limits: Limits, *, password: str = "", cancel: threading.Event | None = None) -> Probe:
    """Look at a source in the child.

    Raises:
        SourceError: empty, encrypted, unreadable, unsupported, or how the child ended.
        SandboxCancelled: `cancel` was set.
    """
    kind = family(os.pread(source.fileno(), HEAD_BYTES, 0))
    if kind is Family.PHOTO_UNSUPPORTED:
        raise heif_unsupported()
    if kind is Family.DOCUMENT:
        return _document(_first(run("document", source, {"facts": True, "password": password}, limits, cancel)))
    if kind is Family.IMAGE:
        facts = _first(run("image", source, {"facts": True}, limits, cancel))
        if not facts["moves"]:
            return Probe(Medium.IMAGE, facts["format"], pages=facts["pages"])
    return _streams(_first(run("streams", source, {}, limits, cancel)))


def heif_unsupported() -> SourceError:
    return SourceError(
        ErrorType.UNSUPPORTED, "expected JPEG, PNG, TIFF, WebP, AVIF, BMP or GIF, got HEIC: please convert the photo"
    )


def _first(messages: Iterator[Message]) -> dict[str, Any]:
    for message in messages:
        return message.head
    raise SourceError(ErrorType.CRASHED, "looking at this file ended without an answer")


def _document(facts: dict[str, Any]) -> Probe:
    return Probe(
        Medium.DOCUMENT,
        "pdf",
        pages=facts["pages"],
        encrypted=facts["encrypted"],
        metadata=_metadata(facts["metadata"]),
    )


def _streams(facts: dict[str, Any]) -> Probe:
    return Probe(
        Medium.VIDEO if facts["video"] else Medium.AUDIO,
        facts["container"],
        duration_s=facts["duration_s"],
        audio=AudioStream(**facts["audio"]) if facts["audio"] else None,
        video=VideoStream(**facts["video"]) if facts["video"] else None,
        metadata=_metadata(facts["metadata"]),
    )


def _metadata(tags: dict[str, Any]) -> dict[str, str]:
    """Short, without control characters."""
    return {
        str(name): "".join(sign for sign in str(value) if sign.isprintable())[:LONGEST_TAG]
        for name, value in tags.items()
    }
