"""Clips: a caption for each run of frames, asked by number.

Where a shot begins and ends was measured on all frames; the model is never asked for a time. A long shot is told in
several runs, and a clip of more frames than a request may show is asked in several requests, so that frames per second
do not fall with length.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from workers import prompts
from workers.answers import ClipAnswer, ScreenText, ShotAnswer
from workers.backends.asking.work import Work
from workers.backends.backend import Unusable
from workers.backends.embedded.frames import kind_of_sound, sound_of
from workers.inputs import CanonicalClip, Frame, Shot, Sound
from workers.prompts import Seen, ShotSaid

LONGEST_RUN_S = 20.0  # one caption tells no more
LEAST_FRAMES = 2  # in a request, of which a refused answer halves the number
WHOLE = (0.0, 0.0, 1.0, 1.0)  # of a frame: the model does not say where in it a text stands


@dataclass(frozen=True, slots=True)
class Run:
    """Frames that get one caption, and the stretch of the source for which they stand."""

    start_s: float
    end_s: float
    frames: tuple[Frame, ...]


async def describe(work: Work, clip: CanonicalClip) -> ClipAnswer:
    """Captions of a clip; once refused, half as many frames are shown at a time.

    Raises:
        Unusable: not every run got a caption, and it may be asked again; asked again, no run of a request got one.
    """
    most = work.manner.frames
    most = max(LEAST_FRAMES, most // 2) if work.again else most
    runs = runs_of(clip, most)
    groups = grouped([run for run in runs if run.frames], most)
    work.expect(max(1, len(groups)))
    said: dict[int, ShotSaid] = {}
    for group in groups:
        said |= {id(run): found for run, found in await _ask(work, clip, group)}
    return ClipAnswer(shots=[_shot(run, said.get(id(run)), clip.sound) for run in runs])


async def _ask(work: Work, clip: CanonicalClip, runs: Sequence[Run]) -> list[tuple[Run, ShotSaid]]:
    prompt = prompts.describe(seen(runs), again=work.again, reasoning_tokens=work.reasoning_tokens)
    answer = await work.parsed(prompt, shown(clip, runs))
    by_number = {shot.shot: shot for shot in reversed(answer.shots)}
    found = [(run, by_number[number]) for number, run in enumerate(runs, 1) if number in by_number]
    if len(found) < len(runs) and (not work.again or not found):
        raise Unusable("shots", f"it describes {len(found)} of {len(runs)} shots")
    return found


def runs_of(clip: CanonicalClip, most_frames: int) -> list[Run]:
    """The shots of a clip, long ones and those of many frames in pieces, in order and without holes."""
    return [run for shot in clip.shots for run in _runs_of_shot(shot, clip.frames, most_frames)]


def _runs_of_shot(shot: Shot, frames: Sequence[Frame], most: int) -> list[Run]:
    """Cut at frames, so that no piece of a shot is without one."""
    shown = [frame for frame in frames if shot.start_s <= frame.time_s < shot.end_s]
    pieces = max(1, -(-(shot.end_s - shot.start_s) // LONGEST_RUN_S))
    length_s = (shot.end_s - shot.start_s) / pieces
    starts = [0]
    for index, frame in enumerate(shown):
        full = index - starts[-1] >= most
        if full or (index > starts[-1] and frame.time_s >= shot.start_s + len(starts) * length_s):
            starts.append(index)
    edges_s = [shot.start_s, *(shown[index].time_s for index in starts[1:]), shot.end_s]
    return [
        Run(start_s, end_s, tuple(shown[low:high]))
        for (low, high), (start_s, end_s) in zip(pairwise([*starts, len(shown)]), pairwise(edges_s), strict=True)
    ]


def grouped(runs: Sequence[Run], most_frames: int) -> list[list[Run]]:
    """Neighbours that fit into one request."""
    groups: list[list[Run]] = []
    room = 0
    for run in runs:
        if not groups or len(run.frames) > room:
            groups.append([])
            room = most_frames
        groups[-1].append(run)
        room -= len(run.frames)
    return groups


def period_ms(frames: Sequence[Frame]) -> int:
    """From one frame to the next: the mean, because readers of video know one rate for all of it.

    Whole milliseconds, because the model is told times that count in them.
    """
    if len(frames) < 2:
        return 1000
    return max(1, round(1000 * (frames[-1].time_s - frames[0].time_s) / (len(frames) - 1)))


def shown(clip: CanonicalClip, runs: Sequence[Run]) -> CanonicalClip:
    """What the model sees of a clip: the frames of these runs, from zero and a period apart."""
    frames = [frame for run in runs for frame in run.frames]
    period_s = period_ms(frames) / 1000
    timed = tuple(Frame(index * period_s, frame.jpeg) for index, frame in enumerate(frames))
    return replace(clip, start_s=0.0, end_s=len(frames) * period_s, shots=(), frames=timed, sound=())


def seen(runs: Sequence[Run]) -> list[Seen]:
    """The runs as the model sees them: frames from 1, seconds of the video that is shown."""
    period_s = period_ms([frame for run in runs for frame in run.frames]) / 1000
    out: list[Seen] = []
    first = 1
    for run in runs:
        last = first + len(run.frames) - 1
        out.append(Seen(first, last, (first - 1) * period_s, last * period_s))
        first = last + 1
    return out


def _shot(run: Run, said: ShotSaid | None, sounds: Sequence[Sound]) -> ShotAnswer:
    sound = sound_of(sounds, Shot(run.start_s, run.end_s))
    evidence: dict[str, Any] = {"duration_s": round(run.end_s - run.start_s, 3), "frames": len(run.frames)}
    if run.frames:
        evidence |= {"first_frame_s": run.frames[0].time_s, "last_frame_s": run.frames[-1].time_s}
    if sound is not None:
        evidence |= {"speech_s": round(sound.speech_s, 3), "level_dbfs": round(sound.level_dbfs, 1)}
    texts = dict.fromkeys(" ".join(text.split()) for text in said.on_screen) if said else {}
    return ShotAnswer(
        start_s=run.start_s,
        end_s=run.end_s,
        text=" ".join(said.caption.split()) if said else "",
        on_screen=[ScreenText(text=text, box=WHOLE, time_s=run.frames[0].time_s) for text in texts if text],
        sound=kind_of_sound(sound),
        evidence=evidence,
    )
