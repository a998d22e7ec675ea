"""Who speaks when in a whole recording: windows of ten seconds, a print of each voice in them, and clusters of prints.

Memory does not depend on the length but for what is kept of a window: its classes (600 bytes) and some two prints
(1.5 kB), 3 MB for an hour. The models are given (`voices.Voices`, or something that answers like it).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.speech.clusters import MOST, THRESHOLD, centroids
from workers.speech.voices import CLASSES, FRAME, HOP, LOCAL, PRINT, RATE_HZ, WINDOW_S, features

STEP_S = 2.5
LEAST_PRINT_S = 0.6  # of one voice alone; below it the overlaps are taken, too
LEAST_FRAMES = 25  # feature frames below which there is no print
JOIN_S = 0.25  # a shorter pause does not end a turn
SHORTEST_S = 0.1
STEP, WINDOW = int(STEP_S * RATE_HZ), WINDOW_S * RATE_HZ

Read = Callable[[int, int], NDArray[np.float32]]


class Models(Protocol):
    """See `voices.Voices`."""

    def activity(self, window: NDArray[np.float32]) -> NDArray[np.uint8]: ...

    def print_of(self, frames: NDArray[np.float32]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """Somebody speaks, in seconds of the recording; turns of two people may overlap."""

    start_s: float
    end_s: float
    speaker: str


@dataclass(slots=True)
class Heard:
    """What the models said, window by window.

    Attributes:
        classes: [W][F] uint8, rows of `CLASSES`.
        window, local, seconds, prints: of each voice in a window: which window, which of its three, seconds alone,
            [192] float32.
    """

    classes: list[NDArray[np.uint8]] = field(default_factory=list)
    window: list[int] = field(default_factory=list)
    local: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    prints: list[NDArray[np.float32]] = field(default_factory=list)


def turns_of(
    read: Read,
    length: int,
    models: Models,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> list[Turn]:
    """Turns in time order, speakers named S1, S2, ... in the order in which they first speak.

    Args:
        read: gives the samples from the first up to before the second index, [N] float32 in -1..1 at 16 kHz, mono;
            fewer where the recording ends. It is asked in rising order, 11 s at most at a time.
        length: samples of the recording.
        on_progress: called with 0..1 after each window; what it raises ends the work.
    """
    return turns_in(listen(read, length, models, on_progress), length / RATE_HZ)


def turns_in(heard: Heard, length_s: float, *, threshold: float = THRESHOLD, most: int = MOST) -> list[Turn]:
    """As `turns_of`, once the models have listened; the arguments are those of `clusters.centroids`."""
    if not heard.prints:
        return []
    return named(spoken(heard, speakers(heard, threshold, most), length_s))


def listen(read: Read, length: int, models: Models, on_progress: Callable[[float], None] | None = None) -> Heard:
    """Run both models over the recording, a window each 2.5 s; the last one is filled up with zeros."""
    heard = Heard()
    count = max(1, -(-max(0, length - WINDOW) // STEP) + 1)
    for window in range(count):
        # Feature frames begin each 10 ms; the last ones of a window reach beyond it.
        samples = read(window * STEP, min(length, window * STEP + WINDOW + FRAME - HOP))
        filled = np.zeros(WINDOW, np.float32)
        filled[: len(samples)] = samples[:WINDOW]
        _listen(models, filled, samples, window, heard)
        if on_progress:
            on_progress((window + 1) / count)
    return heard


def _listen(
    models: Models, filled: NDArray[np.float32], samples: NDArray[np.float32], window: int, heard: Heard
) -> None:
    classes = models.activity(filled)
    heard.classes.append(classes)
    active = CLASSES[classes]  # [F, 3]
    if not active.any():
        return
    frame_s, frames = WINDOW_S / len(classes), features(samples)
    for local in range(LOCAL):
        on = active[:, local] > 0
        alone = on & (active.sum(1) == 1)
        alone_s = float(alone.sum() * frame_s)
        at = (np.flatnonzero(alone if alone_s >= LEAST_PRINT_S else on) * frame_s * RATE_HZ / HOP).astype(np.int64)
        at = np.unique(np.concatenate([at, at + 1]))
        at = at[at < len(frames)]
        if len(at) >= LEAST_FRAMES:
            heard.window.append(window)
            heard.local.append(local)
            heard.seconds.append(alone_s)
            heard.prints.append(models.print_of(frames[at]))


def speakers(heard: Heard, threshold: float = THRESHOLD, most: int = MOST) -> NDArray[np.float32]:
    """[K, 192] the speakers of the recording; prints of voices that were never long alone count only if all are so."""
    seconds, prints = np.array(heard.seconds), np.array(heard.prints, np.float32).reshape(-1, PRINT)
    clear = np.flatnonzero(seconds >= LEAST_PRINT_S)
    chosen = clear if len(clear) else np.arange(len(prints))
    return centroids(prints[chosen], np.array(heard.window)[chosen], seconds[chosen], threshold=threshold, most=most)


def spoken(heard: Heard, found: NDArray[np.float32], length_s: float) -> list[Turn]:
    """Turns, named by the number of the speaker in `found` ([K, D]).

    In each frame the overlapping windows vote on how many people speak, and on who.
    """
    frames = len(heard.classes[0])
    frame_s = WINDOW_S / frames
    votes = np.zeros((frames, len(found)), np.float32)
    people, windows = np.zeros(frames, np.float32), np.zeros(frames, np.float32)
    runs = _Runs(len(found), frame_s, length_s)
    begin = 0
    for (classes, voices), window in zip(_windows(heard), range(len(heard.classes)), strict=True):
        ahead = round(window * STEP_S / frame_s) - begin
        if ahead:
            # No later window reaches the frames before this one.
            runs.add(begin, _on(votes[:ahead], people[:ahead], windows[:ahead]))
            votes, people, windows = (_ahead(held, ahead) for held in (votes, people, windows))
            begin += ahead
        active = CLASSES[classes]
        windows += 1
        people += active.sum(1)
        taken: set[int] = set()
        for voice in sorted(voices, key=lambda voice: -heard.seconds[voice]):
            nearest = np.argsort(-(found @ heard.prints[voice]), kind="stable")
            speaker = next((int(one) for one in nearest if int(one) not in taken), None)
            if speaker is not None:
                taken.add(speaker)
                votes[:, speaker] += active[:, heard.local[voice]]
    runs.add(begin, _on(votes, people, windows))
    return runs.turns()


def _windows(heard: Heard) -> Iterator[tuple[NDArray[np.uint8], list[int]]]:
    """Classes and voices of each window."""
    voices = {window: list(found) for window, found in groupby(range(len(heard.window)), heard.window.__getitem__)}
    for window, classes in enumerate(heard.classes):
        yield classes, voices.get(window, [])


def _ahead(held: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Without its first frames, and with as many empty ones at its end."""
    return np.concatenate([held[frames:], np.zeros_like(held[:frames])])


def _on(votes: NDArray[np.float32], people: NDArray[np.float32], windows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[F, K] who speaks: those with the most votes, as many as the windows count on average."""
    rank = (-votes).argsort(1, kind="stable").argsort(1, kind="stable")
    return (rank < np.round(people / np.maximum(windows, 1))[:, None]) & (votes > 0)


class _Runs:
    """Frames in which each speaker is on, taken piece by piece, as turns."""

    def __init__(self, speakers: int, frame_s: float, length_s: float) -> None:
        self._found: list[list[list[float]]] = [[] for _ in range(speakers)]
        self._frame_s, self._length_s = frame_s, length_s

    def add(self, begin: int, on: NDArray[np.bool_]) -> None:
        for speaker in np.flatnonzero(on.any(0)):
            edges = np.flatnonzero(np.diff(np.concatenate([[False], on[:, speaker], [False]]).astype(np.int8)))
            held = self._found[speaker]
            for first, last in edges.reshape(-1, 2):
                start_s, end_s = float(begin + first) * self._frame_s, float(begin + last) * self._frame_s
                if held and start_s - held[-1][1] < JOIN_S:
                    held[-1][1] = end_s
                else:
                    held.append([start_s, end_s])

    def turns(self) -> list[Turn]:
        found = [
            Turn(round(start_s, 3), round(min(end_s, self._length_s), 3), str(speaker))
            for speaker, runs in enumerate(self._found)
            for start_s, end_s in runs
            if min(end_s, self._length_s) - start_s >= SHORTEST_S
        ]
        return sorted(found, key=lambda turn: (turn.start_s, turn.end_s, int(turn.speaker)))


def named(turns: list[Turn]) -> list[Turn]:
    """The same with speakers S1, S2, ... in the order in which they first speak."""
    names = {speaker: f"S{number}" for number, speaker in enumerate(dict.fromkeys(t.speaker for t in turns), start=1)}
    return [Turn(turn.start_s, turn.end_s, names[turn.speaker]) for turn in turns]
