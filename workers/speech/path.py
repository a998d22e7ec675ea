"""The most likely path of labels through frames (CTC forced alignment), inside a band.

Every label has the first and last frame it may lie in, so memory and time grow with the band, not with
labels x frames, and an error in one place cannot pull labels from another.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NONE = -1e30


@dataclass(frozen=True, slots=True)
class Path:
    """Per label: first and last frame, and its best probability there."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    probability: NDArray[np.float32]


def best_path(
    log_probs: NDArray[np.float32],
    labels: NDArray[np.int64],
    blank: int,
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> Path | None:
    """Viterbi over blank, label, blank, label, ..., blank; None when the band leaves no path.

    Args:
        log_probs: [T, V] by frame.
        labels: [L] ids in order.
        low, high: [L] first and last frame allowed; need not be monotone.
    """
    frames, states = len(log_probs), 2 * len(labels) + 1
    if not len(labels) or len(labels) > frames:
        return None
    of_state = np.full(states, blank, np.int64)
    of_state[1::2] = labels
    # A blank may be skipped between two different labels only.
    skip = np.full(states, NONE)
    skip[3::2] = np.where(of_state[3::2] != of_state[1:-2:2], 0.0, NONE)
    begin, end = _band(low, high, frames)
    back = np.zeros((frames, int((end - begin).max())), np.uint8)
    score = np.full(states + 2, NONE)  # two in front, so that s - 1 and s - 2 exist for every state
    score[2] = 0.0  # a virtual blank before the first frame
    for t in range(frames):
        a, b = int(begin[t]), int(end[t])
        stay, step = score[a + 2 : b + 2], score[a + 1 : b + 1]
        leap = score[a:b] + skip[a:b]
        best = np.maximum(stay, step)
        choice = back[t, : b - a]
        choice[:] = step > stay
        choice[leap > best] = 2
        best = np.maximum(best, leap) + log_probs[t, of_state[a:b]]
        score[: a + 2] = NONE
        score[a + 2 : b + 2] = best
    state = states - 1 if score[states + 1] >= score[states] else states - 2
    if score[state + 2] <= NONE / 2:
        return None
    return _read_back(back, begin, state, log_probs, of_state)


def _band(low: NDArray[np.int64], high: NDArray[np.int64], frames: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Per frame the half-open range of states; both edges only rise."""
    high = np.maximum.accumulate(np.clip(high, 0, frames - 1))
    low = np.minimum.accumulate(np.clip(low, 0, frames - 1)[::-1])[::-1]
    at = np.arange(frames)
    first_label = np.searchsorted(high, at, "left")
    last_label = np.searchsorted(low, at, "right") - 1
    begin = 2 * first_label
    return begin, np.maximum(2 * last_label + 3, begin + 1)


def _read_back(
    back: NDArray[np.uint8],
    begin: NDArray[np.int64],
    state: int,
    log_probs: NDArray[np.float32],
    of_state: NDArray[np.int64],
) -> Path:
    visited = np.empty(len(back), np.int64)
    for t in range(len(back) - 1, -1, -1):
        visited[t] = state
        state -= int(back[t, state - begin[t]])
    at = np.flatnonzero(visited & 1)
    label = visited[at] >> 1
    count = len(of_state) // 2
    first, last = np.full(count, len(back)), np.zeros(count, np.int64)
    probability = np.zeros(count, np.float32)
    np.minimum.at(first, label, at)
    np.maximum.at(last, label, at)
    np.maximum.at(probability, label, np.exp(log_probs[at, of_state[visited[at]]]))
    return Path(first, last, probability)
