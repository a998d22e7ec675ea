"""Decoded frames as upright arrays of a wanted size."""

from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from omni_jobs.errors import ErrorType, SourceError

MOST_FRAME_PX = 40_000_000  # 8K is 33 million


def clockwise(frame: VideoFrame) -> int:
    """Degrees clockwise, in quarters, that turn the stored picture upright."""
    return round(-frame.rotation / 90) % 4 * 90


def check(width_px: int, height_px: int) -> None:
    if width_px * height_px > MOST_FRAME_PX:
        raise SourceError(
            ErrorType.TOO_LARGE,
            f"expected frames of at most {MOST_FRAME_PX // 1_000_000} megapixels, got {width_px} x {height_px}",
        )


def shown_size(frame: VideoFrame, longest_px: int, pixel_ratio: float) -> tuple[int, int]:
    """Width and height before rotation with square pixels, at most `longest_px`, never enlarged."""
    wide = frame.width * pixel_ratio if 0.1 < pixel_ratio < 10 else float(frame.width)
    scale = min(1.0, longest_px / max(wide, frame.height))
    return max(1, round(wide * scale)), max(1, round(frame.height * scale))


def upright(frame: VideoFrame, longest_px: int, pixel_ratio: float, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """[H, W, 3] RGB as it is shown."""
    check(frame.width, frame.height)
    width_px, height_px = shown_size(frame, longest_px, pixel_ratio)
    small = reformatter.reformat(
        frame, width=width_px, height=height_px, format="rgb24", interpolation=Interpolation.BICUBIC
    )
    return turned(small.to_ndarray(), clockwise(frame))


def turned(array: NDArray[Any], degrees: int) -> NDArray[Any]:
    return np.ascontiguousarray(np.rot90(array, -degrees // 90)) if degrees else array
