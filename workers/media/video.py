"""Video of a source: one pass over all frames for times and shots, another for the frames to look at."""

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omni_jobs.errors import ErrorType, SourceError
from workers.inputs import Frame, Shot
from workers.media import cuts
from workers.media.cuts import sample_times
from workers.media.gaps import Gap
from workers.media.sandbox import Limits, run
from workers.media.shots import COLUMNS
from workers.media.shots import cuts as cut_frames

__all__ = ["Scan", "clips", "frames", "jpeg_of", "sample_times", "scan"]

JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over all frames found.

    Attributes:
        times_s: [N] source time of each frame, rising.
        shots: contiguous, from the first frame to the end of the last.
        width_px, height_px: as shown, after `rotation` (degrees clockwise).
        gaps: stretches without frames because of damage, or after the end of the file.
    """

    times_s: NDArray[np.float64]
    shots: tuple[Shot, ...]
    width_px: int
    height_px: int
    rotation: int
    start_s: float
    end_s: float
    gaps: tuple[Gap, ...] = ()


def scan(
    source: BinaryIO,
    limits: Limits,
    *,
    cancel: threading.Event | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Scan:
    """Decode all frames small and find the shots; `on_progress` is called with the second that is reached.

    Raises:
        SourceError: no_video, empty, unreadable, too_large, or how the child ended.
        SandboxCancelled: `cancel` was set.
    """
    tables: list[NDArray[np.float64]] = []
    for message in run("scan", source, {}, limits, cancel):
        if message.kind == "frames":
            tables.append(np.frombuffer(message.payload, np.float64).reshape(-1, 1 + COLUMNS))
            if on_progress is not None:
                on_progress(float(tables[-1][-1, 0]))
            continue
        end = message.head
        table = np.concatenate(tables)
        times_s = np.ascontiguousarray(table[:, 0])
        found = [float(times_s[index]) for index in cut_frames(table[:, 1:].astype(np.float32))]
        turned = end["rotation"] in (90, 270)
        return Scan(
            times_s,
            tuple(cuts.shots(found, end["start_s"], end["end_s"])),
            end["height_px"] if turned else end["width_px"],
            end["width_px"] if turned else end["height_px"],
            end["rotation"],
            end["start_s"],
            end["end_s"],
            tuple(Gap(float(row[0]), float(row[1]), row[2]) for row in end["gaps"]),
        )
    raise SourceError(ErrorType.CRASHED, "decoding this video ended without an answer")


def clips(
    source: BinaryIO,
    limits: Limits,
    times_s: Sequence[Sequence[float]],
    longest_px: int = 768,
    *,
    cancel: threading.Event | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Iterator[tuple[Frame, ...]]:
    """For each clip, in order, the frames shown at its times, upright, as JPEG; one for times on the same frame.

    A time before the first frame is that frame, one after the end the last. A frame carries the time at which it
    appears, which may be before the clip. All clips are decoded in one pass, and memory holds one clip's frames.
    `on_progress` is called with the share of frames that is done.
    """
    total = sum(map(len, times_s))
    at, kept = 0, list[Frame]()
    for done, (clip, frame) in enumerate(_shown(source, limits, times_s, longest_px, cancel), 1):
        while at < clip:
            yield tuple(kept)
            at, kept = at + 1, []
        kept.append(frame)
        if on_progress is not None:
            on_progress(done / total)
    while at < len(times_s):
        yield tuple(kept)
        at, kept = at + 1, []


def frames(
    source: BinaryIO,
    limits: Limits,
    times_s: Sequence[float],
    longest_px: int = 768,
    cancel: threading.Event | None = None,
) -> Iterator[Frame]:
    """The frames of one clip (see `clips`), each as it comes."""
    for _, frame in _shown(source, limits, [times_s], longest_px, cancel):
        yield frame


def _shown(
    source: BinaryIO,
    limits: Limits,
    times_s: Sequence[Sequence[float]],
    longest_px: int,
    cancel: threading.Event | None,
) -> Iterator[tuple[int, Frame]]:
    """Frames with the number of their clip, in order."""
    if not any(len(times) for times in times_s):
        return
    params = {"clips": [[float(time) for time in times] for times in times_s], "longest_px": longest_px}
    for message in run("frames", source, params, limits, cancel):
        head = message.head
        yield head["clip"], Frame(float(head["time_s"]), jpeg_of(message.payload, head["width_px"], head["height_px"]))


def jpeg_of(rgb: bytes | bytearray | memoryview, width_px: int, height_px: int) -> bytes:
    """JPEG of [H, W, 3] RGB rows."""
    buffer = io.BytesIO()
    Image.frombuffer("RGB", (width_px, height_px), bytes(rgb), "raw", "RGB", 0, 1).save(
        buffer, "JPEG", quality=JPEG_QUALITY
    )
    return buffer.getvalue()
