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

__all__ = ["Scan", "frames", "jpeg_of", "sample_times", "scan"]

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


def frames(
    source: BinaryIO,
    limits: Limits,
    times_s: Sequence[float],
    longest_px: int = 768,
    cancel: threading.Event | None = None,
) -> Iterator[Frame]:
    """The frames shown at `times_s`, upright, as JPEG; one for times that fall on the same frame.

    A time before the first frame is that frame, one after the end the last.
    """
    if not times_s:
        return
    params = {"times_s": [float(time) for time in times_s], "longest_px": longest_px}
    for message in run("frames", source, params, limits, cancel):
        head = message.head
        yield Frame(float(head["time_s"]), jpeg_of(message.payload, head["width_px"], head["height_px"]))


def jpeg_of(rgb: bytes | bytearray | memoryview, width_px: int, height_px: int) -> bytes:
    """JPEG of [H, W, 3] RGB rows."""
    buffer = io.BytesIO()
    Image.frombuffer("RGB", (width_px, height_px), bytes(rgb), "raw", "RGB", 0, 1).save(
        buffer, "JPEG", quality=JPEG_QUALITY
    )
    return buffer.getvalue()
