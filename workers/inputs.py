"""Canonical media: what a unit's bytes are once decoded, the same for every backend.

Model-free and made of numpy arrays. `to_bytes` / `from_bytes` are what the object store keeps. Audio is
16-bit PCM in a WAV frame: reading it back needs no decoder in the process that holds the model.
Frames and pages are JPEG bytes made by us from arrays of the child; Pillow reads them back.
"""

import io
import json
import struct
import zipfile
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000


@dataclass(frozen=True, slots=True)
class CanonicalAudio:
    """Mono sound of one span.

    Attributes:
        samples: [N] int16 at 16 kHz.
        start_s: where it begins in the source.
    """

    samples: NDArray[np.int16]
    start_s: float = 0.0
    media_type: ClassVar[str] = "audio/wav"

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or self.samples.dtype != np.int16:
            raise ValueError(f"expected [N] int16, got {list(self.samples.shape)} {self.samples.dtype}")

    @property
    def duration_s(self) -> float:
        return len(self.samples) / RATE_HZ

    @property
    def waveform(self) -> NDArray[np.float32]:
        """[N] float32 in -1..1."""
        return self.samples.astype(np.float32) / 32768.0

    def to_bytes(self) -> bytes:
        data = self.samples.astype("<i2").tobytes()
        head = struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            *(b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, RATE_HZ, RATE_HZ * 2, 2, 16, b"data", len(data)),
        )
        return head + data

    @classmethod
    def from_bytes(cls, data: bytes, start_s: float = 0.0) -> "CanonicalAudio":
        """Read what `to_bytes` wrote; no other WAV."""
        if len(data) < 44 or data[:4] != b"RIFF" or data[36:40] != b"data":
            raise ValueError(f"expected our own WAV of 44 bytes or more, got {len(data)} bytes")
        (promised,) = struct.unpack_from("<I", data, 40)
        if len(data) != 44 + promised:
            raise ValueError(f"expected {44 + promised} bytes as the WAV says, got {len(data)}")
        return cls(np.frombuffer(data, "<i2", offset=44).astype(np.int16, copy=False), start_s)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a clip: its time in the source and its JPEG."""

    time_s: float
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class Shot:
    """A run of frames between two cuts, in seconds of the source; `end_s` is the next shot's start."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class CanonicalClip:
    """At most 120 s of video: frames with exact times, and the shots they belong to.

    Attributes:
        sound: measured facts of the clip's sound by shot (see `Sound`), empty without an audio stream.
    """

    start_s: float
    end_s: float
    width_px: int
    height_px: int
    shots: tuple[Shot, ...]
    frames: tuple[Frame, ...]
    sound: tuple["Sound", ...] = ()
    media_type: ClassVar[str] = "application/zip"

    def to_bytes(self) -> bytes:
        head = {
            "start_s": self.start_s,
            "end_s": self.end_s,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "shots": [[shot.start_s, shot.end_s] for shot in self.shots],
            "times_s": [frame.time_s for frame in self.frames],
            "sound": [asdict(sound) for sound in self.sound],
        }
        return _pack(head, {f"{index:05}.jpg": frame.jpeg for index, frame in enumerate(self.frames)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "CanonicalClip":
        head, files = _unpack(data)
        return cls(
            *(head[name] for name in ("start_s", "end_s", "width_px", "height_px")),
            shots=tuple(Shot(*shot) for shot in head["shots"]),
            frames=tuple(Frame(time_s, files[f"{index:05}.jpg"]) for index, time_s in enumerate(head["times_s"])),
            sound=tuple(Sound(**sound) for sound in head["sound"]),
        )


@dataclass(frozen=True, slots=True)
class Sound:
    """What was measured of the sound of one shot.

    Attributes:
        speech_s: seconds in which the detector heard speech.
        level_dbfs: RMS level of the whole shot, in dB of full scale; -120 is digital silence.
    """

    start_s: float
    end_s: float
    speech_s: float
    level_dbfs: float


@dataclass(frozen=True, slots=True)
class PageWord:
    """One word of a PDF's own text layer; the box is in points of the page as shown, origin top left."""

    x0: float
    y0: float
    x1: float
    y1: float
    text: str
    block: int
    line: int
    size_pt: float = 0.0  # font size, 0 when unknown
    bold: bool = False


@dataclass(frozen=True, slots=True)
class CanonicalPage:
    """One page or picture: its image and, for a PDF, its own words.

    Attributes:
        page: number in the source, from 1.
        width_pt, height_pt: size as shown (after rotation), in points; a picture counts 72 dpi.
        rotation: degrees clockwise that were applied to show it upright.
        jpeg: the rendered page, quality 95; empty where no image is needed (`words` are trusted).
        images_share: part of the page covered by raster pictures, 0..1.
        rulings: [x0, y0, x1, y1] of drawn lines and cell edges, for tables.
    """

    page: int
    width_pt: float
    height_pt: float
    width_px: int
    height_px: int
    dpi: float
    rotation: int
    jpeg: bytes
    words: tuple[PageWord, ...] = ()
    images_share: float = 0.0
    rulings: tuple[tuple[float, float, float, float], ...] = ()
    media_type: ClassVar[str] = "application/zip"

    def to_bytes(self) -> bytes:
        head = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("jpeg", "words")}
        head["words"] = [list(asdict(word).values()) for word in self.words]
        return _pack(head, {"page.jpg": self.jpeg})

    @classmethod
    def from_bytes(cls, data: bytes) -> "CanonicalPage":
        head, files = _unpack(data)
        head["words"] = tuple(PageWord(*word) for word in head["words"])
        head["rulings"] = tuple(tuple(line) for line in head["rulings"])
        return cls(jpeg=files["page.jpg"], **head)


Canonical = CanonicalAudio | CanonicalClip | CanonicalPage


def _pack(head: dict[str, Any], files: dict[str, bytes]) -> bytes:
    """A stored (uncompressed) zip with a JSON head; the same input gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("head.json"), json.dumps(head, separators=(",", ":")))
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _unpack(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        head = json.loads(archive.read("head.json"))
        return head, {name: archive.read(name) for name in archive.namelist() if name != "head.json"}
