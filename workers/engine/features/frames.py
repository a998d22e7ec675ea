"""Which frames of a video are shown, and what the prompt says of their times. Whole numbers and text; no pixels.

Source: spec 3.5. The milliseconds of a frame are cut to a whole number (33 at 29.97 fps): the labels drift by up to a
few percent, as they did in training.
"""

from collections.abc import Sequence

from workers.engine.features.pixels import TUBELET


def sample(total: int, *, source_fps: float, fps: float = 2.0, most: int = 256) -> list[int]:
    """Indices of the frames to show, spread evenly from the first to the last.

    Args:
        total: frames of the video.
        source_fps: its frame rate.
        fps: frames shown per second of it, at most; 0 is no limit.
        most: frames shown; 0 is no limit.

    Raises:
        ValueError: no frames, or no frame rate to sample by.
    """
    if total < 1 or source_fps <= 0:
        raise ValueError(f"expected at least one frame at a rate above 0, got {total} at {source_fps}")
    count = min(most, total) if most > 0 else total
    if fps > 0:
        count = min(count, int(total / source_fps * fps))
    count = max(1, count)
    if count == total:
        return list(range(total))
    # The published sampler is numpy's linspace, truncated: the step first, the last point exact.
    step = (total - 1) / (count - 1) if count > 1 else 0.0
    return [int(at * step) for at in range(count - 1)] + [total - 1 if count > 1 else 0]


def times_s(indices: Sequence[int], source_fps: float) -> list[float]:
    """The times that the prompt names, from whole milliseconds per frame."""
    if source_fps <= 0:
        raise ValueError(f"expected a frame rate above 0, got {source_fps}")
    frame_ms = int(1000.0 / source_fps)
    return [index * frame_ms / 1000.0 for index in indices]


def labels(count: int, seconds: Sequence[float] | None = None, tubelet: int = TUBELET) -> list[str]:
    """The text in front of each tubelet, without the line break that parts it from the one before.

    Args:
        count: frames shown.
        seconds: time of each; None names none.
    """
    if seconds is not None and len(seconds) != count:
        raise ValueError(f"expected a time for each of {count} frames, got {len(seconds)}")
    names = [f"rame {at + 1}" + (f" sampled at {seconds[at]:.2f} seconds" if seconds else "") for at in range(count)]
    groups = [names[at : at + tubelet] for at in range(0, count, tubelet)]
    return ["F" + " and f".join(group) + ": " for group in groups]
