"""Who speaks when in a whole recording: windows of ten seconds, a print of each voice in them, and clusters of prints.

Memory does not depend on the length but for what is kept of a window: its classes (600 bytes) and two or three voices
(1 kB each), 5 MB for an hour. The models are given (`voices.Voices`, or something that answers like it).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.speech.clusters import MOST, THRESHOLD, centroids, linked
from workers.speech.voices import CLASSES, FRAME, HOP, LOCAL, RATE_HZ, WINDOW_S, features

STEP_S = 2.5
LEAST_PRINT_S = 0.6  # of one voice alone; below it the overlaps are taken, too
LEAST_FRAMES = 25  # feature frames below which there is no print
JOIN_S = 0.25  # a shorter pause does not end a turn
SHORTEST_S = 0.1
NO_PRINT = np.zeros(0, np.float32)
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


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice in one window.

    Attributes:
        window: which.
        track: which of the three people that the segmentation model tells apart in it.
        runs: (first, last) frames of the window, in order.
        seconds: of them alone.
        print: [192] float32, a unit vector; empty of a piece that is too short for one.
    """

    window: int
    track: int
    runs: tuple[tuple[int, int], ...]
    seconds: float
    print: NDArray[np.float32]


@dataclass(slots=True)
class Heard:
    """What the models said: [F] uint8 for each window, rows of `CLASSES`; and the voices, window by window."""

    classes: list[NDArray[np.uint8]] = field(default_factory=list)
    voices: list[Voice] = field(default_factory=list)


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
    if not heard.voices:
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
    for track in range(LOCAL):
        on = active[:, track] > 0
        pieces: list[Voice] = []
        for first, last in _runs(on):
            alone = on & (active.sum(1) == 1)
            alone[:first] = alone[last:] = False
            alone_s = float(alone.sum()) * frame_s
            at = np.flatnonzero(alone) if alone_s >= LEAST_PRINT_S else np.arange(first, last)
            at = (at * frame_s * RATE_HZ / HOP).astype(np.int64)
            at = np.unique(np.concatenate([at, at + 1]))
            at = at[at < len(frames)]
            said = models.print_of(frames[at]) if len(at) >= LEAST_FRAMES else NO_PRINT
            pieces.append(Voice(window, track, ((first, last),), alone_s, said))
        heard.voices += voices_of(pieces)


def _runs(on: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, last) of the stretches of [F] that are on."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], on, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def voices_of(pieces: list[Voice], threshold: float = THRESHOLD) -> list[Voice]:
    """The voices in the pieces of one track; the segmentation model takes two people who sound alike for one.

    Pieces without a clear print go to the voice that is nearest in time; without any print there is no voice.
    """
    printed = [piece for piece in pieces if len(piece.print)]
    clear = [piece for piece in printed if piece.seconds >= LEAST_PRINT_S] or printed
    if not clear:
        return []
    prints = np.array([piece.print for piece in clear])
    weights = np.array([max(piece.seconds, 0.05) for piece in clear])
    labels = linked(np.maximum(1.0 - prints @ prints.T, 0.0), weights, threshold)
    label_of = [int(labels[np.argmin([_between(piece, one) for one in clear])]) for piece in pieces]
    found: list[Voice] = []
    for label in dict.fromkeys(label_of):
        mine = [piece for piece, its in zip(pieces, label_of, strict=True) if its == label]
        mean = (prints * weights[:, None])[labels == label].sum(0)
        found.append(
            Voice(
                mine[0].window,
                mine[0].track,
                tuple(piece.runs[0] for piece in mine),
                sum(piece.seconds for piece in mine),
                (mean / np.linalg.norm(mean)).astype(np.float32),
            )
        )
    return found


def _between(piece: Voice, other: Voice) -> int:
    """Frames between two pieces; negative for a piece and itself."""
    (first, last), (other_first, other_last) = piece.runs[0], other.runs[0]
    return max(other_first - last, first - other_last)


def speakers(heard: Heard, threshold: float = THRESHOLD, most: int = MOST) -> NDArray[np.float32]:
    """[K, 192] the speakers of the recording; voices that were never long alone count only if all are so."""
    clear = [voice for voice in heard.voices if voice.seconds >= LEAST_PRINT_S] or heard.voices
    return centroids(
        np.array([voice.print for voice in clear]),
        np.array([(voice.window, voice.track) for voice in clear]),
        np.array([voice.seconds for voice in clear]),
        threshold=threshold,
        most=most,
    )


def spoken(heard: Heard, found: NDArray[np.float32], length_s: float) -> list[Turn]:
    """Turns, named by the number of the speaker in `found` ([K, D]).

    In each frame the overlapping windows vote on how many people speak, and on who.
    """
    frames = len(heard.classes[0])
    frame_s = WINDOW_S / frames
    votes = np.zeros((frames, len(found)), np.float32)
    people, windows = np.zeros(frames, np.float32), np.zeros(frames, np.float32)
    runs = _Turns(len(found), frame_s, length_s)
    begin = 0
    voices = {window: list(of) for window, of in groupby(heard.voices, lambda voice: voice.window)}
    for window, classes in enumerate(heard.classes):
        ahead = round(window * STEP_S / frame_s) - begin
        if ahead:
            # No later window reaches the frames before this one.
            runs.add(begin, _on(votes[:ahead], people[:ahead], windows[:ahead]))
            votes, people, windows = (_ahead(held, ahead) for held in (votes, people, windows))
            begin += ahead
        windows += 1
        people += CLASSES[classes].sum(1)
        track_of: dict[int, int] = {}
        for voice in sorted(voices.get(window, ()), key=lambda voice: -voice.seconds):
            # Two tracks of a window are two people.
            nearest = np.argsort(-(found @ voice.print), kind="stable").tolist()
            speaker = next((one for one in nearest if track_of.get(one, voice.track) == voice.track), None)
            if speaker is not None:
                track_of[speaker] = voice.track
                for first, last in voice.runs:
                    votes[first:last, speaker] += 1
    runs.add(begin, _on(votes, people, windows))
    return runs.turns()


def _ahead(held: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """Without its first frames, and with as many empty ones at its end."""
    return np.concatenate([held[frames:], np.zeros_like(held[:frames])])


def _on(votes: NDArray[np.float32], people: NDArray[np.float32], windows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """[F, K] who speaks: those with the most votes, as many as the windows count on average."""
    rank = (-votes).argsort(1, kind="stable").argsort(1, kind="stable")
    return (rank < np.round(people / np.maximum(windows, 1))[:, None]) & (votes > 0)


class _Turns:
    """Frames in which each speaker is on, taken piece by piece, as turns."""

    def __init__(self, speakers: int, frame_s: float, length_s: float) -> None:
        self._found: list[list[list[float]]] = [[] for _ in range(speakers)]
        self._frame_s, self._length_s = frame_s, length_s

    def add(self, begin: int, on: NDArray[np.bool_]) -> None:
        for speaker in np.flatnonzero(on.any(0)):
            held = self._found[speaker]
            for first, last in _runs(on[:, speaker]):
                start_s, end_s = (begin + first) * self._frame_s, (begin + last) * self._frame_s
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
