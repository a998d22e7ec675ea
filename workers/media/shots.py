"""Finds the cuts of a video on thumbnails of all its frames. Pure numpy.

A cut is a change that is large against the contrast of the pictures and stands alone among its neighbours:
movement is large for many frames, a cut for one. A flash is a change that is taken back, so it is none; nor are
dissolves and fades, in which no single step stands out. One blended frame between two shots (conversion of frame
rates) still counts as a cut. Measured by `tests/evals/eval_shots.py`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THUMB_WIDTH_PX, THUMB_HEIGHT_PX = 64, 36
BLOCK_PX = 4
LAGS = 4  # a flash of up to three frames is seen as one
COLUMNS = LAGS + 1

LEAST_CHANGE = 0.02  # of full scale
LEAST_CHANGE_OF_CONTRAST = 0.5
LEAST_PROMINENCE = 2.3  # against the largest change nearby
NOISE = 0.004
NEIGHBOURS = 5
TAKEN_BACK = 0.4
BLEND = 0.2
# Two steps are often a jerk of the camera or a fade: only a strong change is believed to be a blend.
LEAST_BLEND = 0.1
LEAST_BLEND_OF_CONTRAST = 0.8


@dataclass(frozen=True, slots=True)
class Features:
    """Changes between frames, in parts of full scale.

    Attributes:
        change: [N, LAGS] mean difference to the frame 1, 2, ... before; 0 where there is none.
        contrast: [N] spread of the picture.
    """

    change: NDArray[np.float32]
    contrast: NDArray[np.float32]


class Comparer:
    """Turns thumbnails into rows of features, batch by batch."""

    def __init__(self) -> None:
        self._before = np.zeros((0, 0), np.float32)

    def rows(self, thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """[N, 36, 64, 3] uint8 to [N, COLUMNS]: changes by lag, then contrast."""
        grids = _grids(thumbs)
        known = np.concatenate([self._before, grids]) if self._before.size else grids
        old = len(known) - len(grids)
        rows = np.zeros((len(grids), COLUMNS), np.float32)
        for lag in range(1, LAGS + 1):
            first = max(old, lag)
            if first < len(known):
                rows[first - old :, lag - 1] = np.abs(known[first:] - known[first - lag : -lag]).mean(axis=1)
        rows[:, LAGS] = grids.reshape(len(grids), -1, 3).std(axis=1).mean(axis=1)
        self._before = known[-LAGS:]
        return rows


def cuts(rows: NDArray[np.float32]) -> list[int]:
    """Indices of the frames that begin a new shot, from the rows of all frames; never 0."""
    features = Features(rows[:, :LAGS], rows[:, LAGS])
    return [at for at in range(1, len(rows)) if _is_cut(features, at)]


def _is_cut(features: Features, at: int) -> bool:
    if _is_step(features, at):
        return not _taken_back(features, at, float(features.change[at, 0]))
    # The second of two steps through a blend of both shots.
    both = float(features.change[at, 1])
    if at < 2 or both < LEAST_BLEND or features.change[at - 1 : at + 1, 0].min() < BLEND * both:
        return False
    if _is_step(features, at - 1) or not _stands_out(features, at, both, LEAST_BLEND_OF_CONTRAST, skip=1):
        return False
    return not _taken_back(features, at, both)


def _is_step(features: Features, at: int) -> bool:
    """Whether the change to the frame before is large and alone."""
    change = float(features.change[at, 0])
    return change >= LEAST_CHANGE and _stands_out(features, at, change, LEAST_CHANGE_OF_CONTRAST, skip=0)


def _stands_out(features: Features, at: int, change: float, of_contrast: float, skip: int) -> bool:
    """Whether a change that ends at frame `at` is a cut's; `skip` steps before it belong to it."""
    contrast = max(float(features.contrast[at]), float(features.contrast[at - 1 - skip]), 0.02)
    if change < of_contrast * contrast:
        return False
    first = max(1, at - skip - NEIGHBOURS)
    near = features.change[first : at + NEIGHBOURS + 1, 0].copy()
    near[at - skip - first : at + 1 - first] = 0
    return change >= LEAST_PROMINENCE * (float(near.max(initial=0.0)) + NOISE)


def _taken_back(features: Features, at: int, change: float) -> bool:
    """Whether a frame soon after looks like the one before `at`, or `at` like one of those before it."""
    begins = [
        features.change[at + lag - 1, lag - 1] for lag in range(2, LAGS + 1) if at + lag - 1 < len(features.change)
    ]
    ends = [features.change[at, lag - 1] for lag in range(2, LAGS + 1) if at - lag >= 0]
    return min((float(value) for value in (*begins, *ends)), default=change) < TAKEN_BACK * change


def _grids(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[N, 9 * 16 * 3] block means in 0..1."""
    rows, columns = THUMB_HEIGHT_PX // BLOCK_PX, THUMB_WIDTH_PX // BLOCK_PX
    blocks = thumbs.reshape(len(thumbs), rows, BLOCK_PX, columns, BLOCK_PX, 3)
    means = blocks.mean(axis=(2, 4), dtype=np.float32) / np.float32(255)
    return means.reshape(len(thumbs), -1)
