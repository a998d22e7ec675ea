"""Media of a request as pixels and samples: decoded in the limited child, taken as they come out of it.

Frames are chosen as the model was trained on them (`features.frames`): by number, at so many a second.
"""

import os
import tempfile
import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from omni_jobs.errors import ErrorType, SourceError, Unavailable
from workers.engine.features.frames import sample, times_s
from workers.engine.media import Decoded, Image, Sound, Video
from workers.engine.request import MediaKind
from workers.media import audio
from workers.media import video as films
from workers.media.magic import HEAD_BYTES, Family, family
from workers.media.probe import heif_unsupported, probe
from workers.media.sandbox import Limits, SandboxCancelled, run
from workers.media.wire import Message

LONGEST_PX = 768  # of a frame: the model sees about 512 x 512
EARLY_S = 1e-3  # a clock of milliseconds may put a frame so much before its number says


@dataclass(frozen=True, slots=True)
class Watching:
    """How a video is looked at.

    Attributes:
        fps: frames for a second of it, at most; 0 is no limit.
        frames: of all of it, at most; 0 is no limit.
        sound: it is heard too.
        pruning_rate: share of its rows that is dropped.
    """

    fps: float = 2.0
    frames: int = 256
    sound: bool = False
    pruning_rate: float = 0.5


def decode(
    kind: MediaKind, source: BinaryIO, limits: Limits, watching: Watching, cancel: threading.Event | None = None
) -> Decoded:
    """
    Raises:
        SourceError: it is not what it should be, or cannot be decoded within the limits.
        Unavailable: the decoder was ended from outside, or by `cancel`.
    """
    try:
        match kind:
            case MediaKind.IMAGE:
                return _image(source, limits, cancel)
            case MediaKind.SOUND:
                return _sound(source, limits, cancel)
            case MediaKind.VIDEO:
                return _video(source, limits, watching, cancel)
    except SandboxCancelled as error:
        raise Unavailable(f"decoding was broken off: {error}") from error


def _image(source: BinaryIO, limits: Limits, cancel: threading.Event | None) -> Image:
    head = os.pread(source.fileno(), HEAD_BYTES, 0)
    if family(head) is Family.PHOTO_UNSUPPORTED:
        raise heif_unsupported()
    for message in run("image", source, {"left": [1]}, limits, cancel):
        if message.kind == "page":
            return Image(_pixels(message))
        if message.kind == "failure":
            raise SourceError(message.head["type"], message.head["message"])
    raise SourceError(ErrorType.EMPTY, "expected a picture, got a file without one")


def _sound(source: BinaryIO, limits: Limits, cancel: threading.Event | None) -> Sound:
    with tempfile.TemporaryDirectory(prefix="sound-") as scratch:
        samples = audio.decode(source, limits, Path(scratch), cancel=cancel).samples
        return Sound(torch.from_numpy(samples.astype(np.float32)).div_(32768.0))


def _video(source: BinaryIO, limits: Limits, watching: Watching, cancel: threading.Event | None) -> Video:
    total, fps, start_s, has_sound = _measured(source, limits, cancel)
    indices = sample(total, source_fps=fps, fps=watching.fps, most=watching.frames)
    wanted_s = [start_s + index / fps + EARLY_S for index in indices]
    params = {"clips": [wanted_s], "longest_px": LONGEST_PX}
    shown = [(message.head["time_s"], _pixels(message)) for message in run("frames", source, params, limits, cancel)]
    if not shown:
        raise SourceError(ErrorType.NO_VIDEO, "expected a video, got one without a frame")
    seconds = times_s(_numbers([time for time, _ in shown], wanted_s, indices), fps)
    sound = _sound(source, limits, cancel) if watching.sound and has_sound else None
    return Video(torch.stack([pixels for _, pixels in shown]), seconds, sound)


def _numbers(shown_s: Sequence[float], wanted_s: Sequence[float], indices: Sequence[int]) -> list[int]:
    """Which index each frame was shown for: the first of its times, where several fall on one frame."""
    last = len(indices) - 1
    later = [indices[min(bisect_left(wanted_s, time), last)] for time in shown_s[1:]]
    return [indices[0], *later][: len(shown_s)]


def _measured(source: BinaryIO, limits: Limits, cancel: threading.Event | None) -> tuple[int, float, float, bool]:
    """Frames, frames a second, where they begin, and whether there is sound; counted where the file does not say."""
    found = probe(source, limits, cancel=cancel)
    if found.video is None:
        raise SourceError(ErrorType.NO_VIDEO, f"expected a video, got {found.container} without one")
    stream, has_sound = found.video, found.audio is not None
    if stream.fps and stream.duration_s:
        return max(1, round(stream.fps * stream.duration_s)), stream.fps, stream.start_s, has_sound
    scan = films.scan(source, limits, cancel=cancel)
    total = len(scan.times_s)
    return total, total / max(scan.end_s - scan.start_s, 1e-3), scan.start_s, has_sound


def _pixels(message: Message) -> Tensor:
    """[3, height, width] uint8, of [height, width, 3] RGB."""
    rows = np.frombuffer(bytearray(message.payload), np.uint8)
    pixels = rows.reshape(message.head["height_px"], message.head["width_px"], 3)
    return torch.from_numpy(pixels).permute(2, 0, 1)
