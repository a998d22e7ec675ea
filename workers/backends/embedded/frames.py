"""Shots of a clip: what can be said of them from evidence, and the text seen in them.

No small model in a package can caption a picture truthfully, so nothing is said of what it shows. A shot is described
by its length, brightness, colour, how much moves, the text on screen and the sound; `evidence` holds the numbers.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.answers import Box, ClipAnswer, ScreenText, ShotAnswer
from workers.backends.backend import Cancelled
from workers.backends.embedded.ocr import IsCancelled, Line, Ocr
from workers.backends.embedded.order import reading_order
from workers.inputs import CanonicalClip, Frame, Shot, Sound

THUMB_PX = 96, 64  # width, height
TILE_PX = 8
NEW_TILE = 0.06  # of full scale, mean over a tile: less is noise of the codec
CALLS_PER_SHOT = 4
CALLS_PER_CLIP = 24

# On frames without text the recogniser scored its inventions up to 0.75, and 0.91 for one as high as half the frame;
# right lines of burnt-in text scored 0.94 and more, small print of a screen recording 0.83 and more.
MIN_SCORE = 0.82
SURE_SCORE = 0.95
HEIGHTS = 0.015, 0.3  # of the frame
MIN_HEIGHT_PX = 7
QUOTED = 3  # texts quoted in the sentence; all are in `on_screen`

DARK, BRIGHT = 0.25, 0.7  # mean grey, 0..1
BLACK = 0.1  # grey of the brightest 1 % of a frame
GREY_CHROMA = 0.03  # distance of the channels from grey, 0..1, of the most coloured 2 % of a frame
STILL, LITTLE, MUCH = 0.004, 0.02, 0.1  # mean change of grey from frame to frame, 0..1
SILENCE_DBFS = -60.0
SPEECH_S = 0.3

SoundKind = Literal["speech", "sound", "silence", "none"]
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Look:
    """What a frame looks like without being understood.

    Attributes:
        grey: [H, W] 0..1.
        peak: grey that 1 % of the frame passes.
        chroma: distance of the channels from grey that 2 % of the frame passes, 0..1.
    """

    time_s: float
    grey: NDArray[np.float32]
    peak: float
    chroma: float


class Frames:
    """Threads: `describe` may be called from several; OCR takes turns."""

    def __init__(self, ocr: Ocr) -> None:
        self.ocr = ocr

    def digests(self) -> dict[str, Path]:
        return self.ocr.digests()

    def describe(
        self,
        clip: CanonicalClip,
        *,
        rung: int = 0,
        cancelled: IsCancelled = lambda: False,
        on_progress: Progress = lambda share: None,
    ) -> ClipAnswer:
        """One `ShotAnswer` for each shot of the clip, in order.

        Args:
            clip: frames with times; a shot may be without any.
            rung: each further one looks for text in as many frames again.
            cancelled: asked at every frame and before every step of OCR.
            on_progress: told 0..1 as frames are done.

        Raises:
            Cancelled: `cancelled` became true.
        """
        looks = []
        for frame in clip.frames:
            if cancelled():
                raise Cancelled
            looks.append(_look(frame))
        per_shot = [
            [k for k, look in enumerate(looks) if shot.start_s <= look.time_s < shot.end_s] for shot in clip.shots
        ]
        plan = _plan([_distinct([looks[k] for k in shot]) for shot in per_shot], rung + 1)
        total, done = max(sum(map(len, plan)), 1), 0
        shots = []
        for shot, members, chosen in zip(clip.shots, per_shot, plan, strict=True):
            texts: list[ScreenText] = []
            for k in (members[n] for n in chosen):
                texts += self._texts(clip.frames[k], cancelled)
                done += 1
                on_progress(done / total)
            shots.append(
                _answer(shot, [looks[k] for k in members], _once(texts), sound_of(clip.sound, shot), len(chosen))
            )
        on_progress(1.0)
        return ClipAnswer(shots=shots)

    def _texts(self, frame: Frame, cancelled: IsCancelled) -> list[ScreenText]:
        picture = np.asarray(Image.open(io.BytesIO(frame.jpeg)).convert("RGB"))
        height, width = picture.shape[:2]
        reading = self.ocr.read(picture, cancelled=cancelled, any_way_up=False, min_score=MIN_SCORE)
        lines = [line for line in reading.lines if _plausible(line, height)]
        order = reading_order([line.box for line in lines], pad=0.02 * height)
        return [
            ScreenText(
                text=lines[k].text,
                box=_relative(lines[k].box, width, height),
                time_s=frame.time_s,
                confidence=round(lines[k].score, 4),
            )
            for k in order
        ]


def _look(frame: Frame) -> Look:
    image = Image.open(io.BytesIO(frame.jpeg)).convert("RGB").resize(THUMB_PX, Image.Resampling.BOX)
    rgb = np.asarray(image, dtype=np.float32) / 255
    grey = (rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)).astype(np.float32)
    chroma = np.abs(rgb - grey[:, :, None]).mean(axis=2)
    return Look(frame.time_s, grey, float(np.percentile(grey, 99)), float(np.percentile(chroma, 98)))


def _distinct(looks: Sequence[Look]) -> list[int]:
    """Frames that differ from the last one kept in at least one tile: a caption changes a corner only."""
    kept: list[int] = []
    for k, look in enumerate(looks):
        if not kept or _largest_change(looks[kept[-1]].grey, look.grey) > NEW_TILE:
            kept.append(k)
    return kept


def _largest_change(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    height, width = a.shape
    tiles = np.abs(a - b).reshape(height // TILE_PX, TILE_PX, width // TILE_PX, TILE_PX)
    return float(tiles.mean(axis=(1, 3)).max())


def _plan(distinct: Sequence[Sequence[int]], times: int) -> list[list[int]]:
    """Frames to read in each shot: one each, then more in turns, until the budget of the clip is spent."""
    counts = [0] * len(distinct)
    left = CALLS_PER_CLIP * times
    for turn in range(CALLS_PER_SHOT * times):
        for k, frames in enumerate(distinct):
            if left and turn < len(frames):
                counts[k] += 1
                left -= 1
    return [_spread(frames, count) for frames, count in zip(distinct, counts, strict=True)]


def _spread(frames: Sequence[int], count: int) -> list[int]:
    """`count` of the frames, evenly; a single one is from the middle, where nothing fades."""
    step = len(frames) / max(count, 1)
    return [frames[int((k + 0.5) * step)] for k in range(count)]


def _plausible(line: Line, frame_height: int) -> bool:
    """Whether a line is text and not a texture: size, and mostly letters and digits."""
    x0, y0, x1, y1 = line.box
    height = min(y1 - y0, x1 - x0)
    signs = sum(c.isalnum() for c in line.text)
    if signs < 2 or signs < 0.5 * len(line.text.replace(" ", "")) or height < MIN_HEIGHT_PX:
        return False
    low, high = HEIGHTS
    return low * frame_height <= height and (height <= high * frame_height or line.score >= SURE_SCORE)


def _relative(box: Box, width: int, height: int) -> Box:
    x0, y0, x1, y1 = box
    return round(x0 / width, 4), round(y0 / height, 4), round(x1 / width, 4), round(y1 / height, 4)


def _once(texts: Sequence[ScreenText]) -> list[ScreenText]:
    """The same text at the same place is told once: where it was read best, at the time it was first seen."""
    kept: list[ScreenText] = []
    for text in texts:
        same = next((k for k, other in enumerate(kept) if _same(text, other)), None)
        if same is None:
            kept.append(text)
        elif (text.confidence or 0.0) > (kept[same].confidence or 0.0):
            kept[same] = text.model_copy(update={"time_s": kept[same].time_s})
    return kept


def _same(a: ScreenText, b: ScreenText) -> bool:
    """Equal but for slips of the recogniser; a clock that moved on is another text."""
    x, y = _folded(a.text), _folded(b.text)
    if x == y:
        return True
    if [c for c in x if c.isdigit()] != [c for c in y if c.isdigit()] or _overlap(a.box, b.box) < 0.4:
        return False
    return SequenceMatcher(None, x, y, autojunk=False).ratio() > 0.8


def _folded(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _overlap(a: Box, b: Box) -> float:
    """Common area as a part of what both cover together."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(wide, 0.0) * max(high, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return common / max(areas - common, 1e-9)


def sound_of(sounds: Sequence[Sound], shot: Shot) -> Sound | None:
    """What was measured for the shot, or for the measured part that covers most of it."""

    def covered(sound: Sound) -> float:
        return min(sound.end_s, shot.end_s) - max(sound.start_s, shot.start_s)

    best = max(sounds, key=covered, default=None)
    return best if best is not None and covered(best) > 0 else None


def kind_of_sound(sound: Sound | None) -> SoundKind:
    if sound is None:
        return "none"
    if sound.speech_s >= SPEECH_S:
        return "speech"
    return "silence" if sound.level_dbfs <= SILENCE_DBFS else "sound"


def _answer(
    shot: Shot, looks: Sequence[Look], texts: list[ScreenText], sound: Sound | None, frames_read: int
) -> ShotAnswer:
    duration_s = shot.end_s - shot.start_s
    kind = kind_of_sound(sound)
    evidence: dict[str, Any] = {"duration_s": round(duration_s, 3), "frames": len(looks), "frames_read": frames_read}
    said = [f"A shot of {_seconds(duration_s)}"]
    if looks:
        brightness = float(np.mean([look.grey.mean() for look in looks]))
        peak, chroma = max(look.peak for look in looks), max(look.chroma for look in looks)
        changes = [float(np.abs(a.grey - b.grey).mean()) for a, b in pairwise(looks)]
        evidence |= {
            "first_frame_s": looks[0].time_s,
            "last_frame_s": looks[-1].time_s,
            "brightness": round(brightness, 4),
            "peak": round(peak, 4),
            "chroma": round(chroma, 4),
        }
        said += _picture_words(brightness, peak, chroma)
        if changes:
            motion = float(np.mean(changes))
            evidence["motion"] = round(motion, 4)
            said.append(_motion_words(motion))
    if sound is not None:
        evidence |= {"speech_s": round(sound.speech_s, 3), "level_dbfs": round(sound.level_dbfs, 1)}
        said.append({"speech": "with speech", "sound": "with sound but no speech", "silence": "silent"}[kind])
    text = ", ".join(part for part in said if part) + "."
    if texts:
        quoted = ", ".join(f"“{seen.text}”" for seen in texts[:QUOTED])
        text += f" On screen: {quoted}" + (f" and {len(texts) - QUOTED} more." if len(texts) > QUOTED else ".")
    return ShotAnswer(start_s=shot.start_s, end_s=shot.end_s, text=text, on_screen=texts, sound=kind, evidence=evidence)


def _seconds(duration_s: float) -> str:
    return f"{duration_s:.1f} s"


def _picture_words(brightness: float, peak: float, chroma: float) -> list[str]:
    if peak < BLACK:
        return ["black"]
    light = "dark" if brightness < DARK else "bright" if brightness > BRIGHT else ""
    return [light, "in black and white" if chroma < GREY_CHROMA else "in colour"]


def _motion_words(motion: float) -> str:
    if motion < STILL:
        return "a still picture"
    little, much = "little changes from frame to frame", "much changes from frame to frame"
    return little if motion < LITTLE else much if motion > MUCH else ""
