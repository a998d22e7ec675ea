"""Shots of drawn clips: what is said, what is not, and where it comes from."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from workers.backends.backend import Cancelled
from workers.backends.embedded.frames import CALLS_PER_CLIP, CALLS_PER_SHOT, Frames
from workers.backends.embedded.ocr import Line, Ocr, Reading
from workers.inputs import CanonicalClip, Frame, Shot, Sound

SIZE = 320, 180


@pytest.fixture(scope="module")
def ocr() -> Ocr:
    return Ocr(threads=2)


class Counting(Ocr):
    """An OCR that finds nothing and counts how often it is asked."""

    calls = 0

    def read(self, picture: object, **_: object) -> Reading:
        self.calls += 1
        return Reading(())


class Saying(Ocr):
    """An OCR that finds these lines in every picture."""

    def __init__(self, *lines: Line) -> None:
        super().__init__()
        self.lines = lines

    def read(self, picture: object, **_: object) -> Reading:
        return Reading(self.lines)


def make_clip(
    images: Sequence[Image.Image], shots: Sequence[tuple[float, float]] = (), sound: Sequence[Sound] = ()
) -> CanonicalClip:
    frames = []
    for second, image in enumerate(images):
        data = io.BytesIO()
        image.save(data, "JPEG", quality=95)
        frames.append(Frame(float(second), data.getvalue()))
    spans = shots or [(0.0, float(len(images)))]
    return CanonicalClip(0.0, float(len(images)), *SIZE, tuple(Shot(*s) for s in spans), tuple(frames), tuple(sound))


def plain(grey: int) -> Image.Image:
    return Image.new("RGB", SIZE, (grey, grey, grey))


def titled(text: str, background: str = "navy") -> Image.Image:
    image = Image.new("RGB", SIZE, background)
    ImageDraw.Draw(image).text((20, 130), text, fill="white", font=ImageFont.load_default(26))
    return image


def noise(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_text_on_screen_is_quoted_once_with_its_place_and_first_time(ocr: Ocr) -> None:
    clip = make_clip([plain(90), titled("GATE 7 OPEN"), titled("GATE 7 OPEN", "maroon")])
    shot = Frames(ocr).describe(clip).shots[0]
    assert [(seen.text, seen.time_s) for seen in shot.on_screen] == [("GATE 7 OPEN", 1.0)]
    x0, y0, x1, y1 = shot.on_screen[0].box
    assert 0.0 < x0 < 0.1 < x1 < 0.9
    assert 0.65 < y0 < 0.75 < y1 < 0.95
    assert shot.on_screen[0].confidence > 0.9
    assert shot.text.endswith("On screen: “GATE 7 OPEN”.")


def test_texts_that_differ_in_a_digit_are_two(ocr: Ocr) -> None:
    shot = Frames(ocr).describe(make_clip([titled("TIME 00:01"), titled("TIME 00:02")])).shots[0]
    assert [seen.text for seen in shot.on_screen] == ["TIME 00:01", "TIME 00:02"]


def test_textures_give_no_text(ocr: Ocr) -> None:
    stripes = Image.new("RGB", SIZE, "white")
    for x in range(0, SIZE[0], 8):
        ImageDraw.Draw(stripes).rectangle((x, 0, x + 3, SIZE[1]), fill="black")
    shot = Frames(ocr).describe(make_clip([noise(1), stripes])).shots[0]
    assert shot.on_screen == []
    assert "On screen" not in shot.text


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (Line("EXIT", (10, 10, 90, 30), 0.97), True),
        (Line("EXIT", (10, 10, 90, 30), 0.6), True),  # scores are the business of `Ocr.read`
        (Line("#-~/.", (10, 10, 90, 30), 0.97), False),
        (Line("8", (10, 10, 30, 30), 0.97), False),
        (Line("tiny", (10, 10, 30, 14), 0.97), False),
        (Line("BUNKY", (10, 10, 300, 120), 0.91), False),
        (Line("BUNNY", (10, 10, 300, 120), 0.99), True),
    ],
)
def test_a_line_must_look_like_text(line: Line, kept: bool) -> None:
    shot = Frames(Saying(line)).describe(make_clip([plain(90)])).shots[0]
    assert bool(shot.on_screen) == kept


def test_brightness_colour_and_change_are_told_from_numbers() -> None:
    frames = Frames(Counting())
    clip = make_clip(
        [
            plain(2),
            plain(2),
            plain(230),
            plain(231),
            Image.new("RGB", SIZE, "red"),
            noise(3).convert("L").convert("RGB"),
        ],
        [(0, 2), (2, 4), (4, 5), (5, 6)],
    )
    said = [shot.text for shot in frames.describe(clip).shots]
    assert said == [
        "A shot of 2.0 s, black, a still picture.",
        "A shot of 2.0 s, bright, in black and white, a still picture.",
        "A shot of 1.0 s, in colour.",
        "A shot of 1.0 s, in black and white.",
    ]


def test_evidence_holds_the_numbers_behind_the_words() -> None:
    sound = Sound(0.0, 2.0, speech_s=1.25, level_dbfs=-21.04)
    shot = Frames(Counting()).describe(make_clip([plain(0), plain(255)], sound=[sound])).shots[0]
    assert shot.text == "A shot of 2.0 s, in black and white, much changes from frame to frame, with speech."
    assert shot.evidence == {
        "duration_s": 2.0,
        "frames": 2,
        "frames_read": 2,
        "first_frame_s": 0.0,
        "last_frame_s": 1.0,
        "brightness": pytest.approx(0.5, abs=0.01),
        "peak": pytest.approx(1.0, abs=0.01),
        "chroma": pytest.approx(0.0, abs=0.01),
        "motion": pytest.approx(1.0, abs=0.01),
        "speech_s": 1.25,
        "level_dbfs": -21.0,
    }


@pytest.mark.parametrize(
    ("speech_s", "level_dbfs", "kind"), [(2.0, -20.0, "speech"), (0.1, -20.0, "sound"), (0.0, -90.0, "silence")]
)
def test_sound_is_speech_sound_or_silence(speech_s: float, level_dbfs: float, kind: str) -> None:
    clip = make_clip([plain(90)], sound=[Sound(0.0, 1.0, speech_s, level_dbfs)])
    assert Frames(Counting()).describe(clip).shots[0].sound == kind


def test_without_sound_and_frames_a_shot_still_has_an_answer() -> None:
    shots = Frames(Counting()).describe(make_clip([plain(90)], [(0.0, 1.0), (1.0, 1.04)])).shots
    assert [shot.sound for shot in shots] == ["none", "none"]
    assert shots[1].text == "A shot of 0.0 s."
    assert shots[1].evidence["frames"] == 0


def test_the_same_frame_is_read_once() -> None:
    ocr = Counting()
    Frames(ocr).describe(make_clip([plain(90)] * 12))
    assert ocr.calls == 1


def test_a_small_caption_makes_a_frame_new() -> None:
    ocr = Counting()
    captioned = plain(90)
    ImageDraw.Draw(captioned).text((130, 160), "a word", fill="white", font=ImageFont.load_default(14))
    Frames(ocr).describe(make_clip([plain(90), captioned]))
    assert ocr.calls == 2


def test_reading_is_bounded_by_shot_and_by_clip() -> None:
    ocr = Counting()
    images = [plain(60 * (k % 4)) for k in range(40)]
    assert Frames(ocr).describe(make_clip(images)).shots[0].evidence["frames_read"] == CALLS_PER_SHOT
    ocr.calls = 0
    shots = Frames(ocr).describe(make_clip(images, [(k, k + 1) for k in range(40)])).shots
    assert ocr.calls == CALLS_PER_CLIP
    assert len(shots) == 40


def test_progress_rises_to_one_and_cancelling_stops_between_frames() -> None:
    seen: list[float] = []
    clip = make_clip([plain(60 * (k % 4)) for k in range(4)])
    Frames(Counting()).describe(clip, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    with pytest.raises(Cancelled):
        Frames(Counting()).describe(clip, cancelled=lambda: True)
