"""Sound of a source as 16 kHz mono samples on disk: an hour is 115 MB of file, and no memory."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from omni_jobs.errors import ErrorType, SourceError
from workers.inputs import RATE_HZ
from workers.media.gaps import Gap
from workers.media.sandbox import Limits, run

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class DecodedAudio:
    """The sound of a source.

    Attributes:
        samples: [N] int16 at 16 kHz, a read-only map of `scratch/sound.pcm`.
        start_s: source time of sample 0.
        gaps: what is silence here because it could not be decoded, or lies after the end.
        one_channel_s: seconds of which one channel was taken, because together they cancel each other.
    """

    samples: np.memmap
    start_s: float
    gaps: tuple[Gap, ...] = ()
    one_channel_s: float = 0.0

    @property
    def duration_s(self) -> float:
        return len(self.samples) / RATE_HZ

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s


def decode(
    source: BinaryIO,
    limits: Limits,
    scratch: Path,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    cancel: threading.Event | None = None,
    on_progress: Progress | None = None,
) -> DecodedAudio:
    """Decode the default sound stream between two times of the source into `scratch/sound.pcm`.

    `on_progress` is called with the second of the source that is reached.

    Raises:
        SourceError: no_audio, empty, unreadable, or how the child ended.
        SandboxCancelled: `cancel` was set.
    """
    path = scratch / "sound.pcm"
    end: dict | None = None
    with path.open("wb") as file:
        for message in run("audio", source, {"start_s": start_s, "end_s": end_s}, limits, cancel):
            if message.kind == "end":
                end = message.head
                continue
            at = int(message.head["at"])
            # Silence between two runs is a hole in the file: it takes no room.
            os.pwrite(file.fileno(), message.payload, 2 * at)
            if on_progress is not None:
                on_progress(start_s + (at + len(message.payload) // 2) / RATE_HZ)
        size_bytes = file.seek(0, os.SEEK_END)
    if end is None or not size_bytes:
        raise SourceError(ErrorType.EMPTY, "expected sound, got none in the part that was asked for")
    samples = np.memmap(path, "<i2", "r", shape=(size_bytes // 2,))
    gaps = tuple(Gap(float(row[0]), float(row[1]), row[2]) for row in end["gaps"])
    return DecodedAudio(samples, float(end["start_s"]), gaps, float(end["one_channel_s"]))
