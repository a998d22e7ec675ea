"""Canonical media into pixels and samples."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from workers.engine.canonical import decoded
from workers.engine.media import Image, Sound, Video
from workers.inputs import CanonicalAudio, CanonicalClip, CanonicalPage, Frame


def jpeg(shade: int, size: tuple[int, int] = (12, 8)) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", size, (shade, 0, 255 - shade)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def page(data: bytes) -> CanonicalPage:
    return CanonicalPage(1, 72.0, 48.0, 12, 8, 72.0, 0, data)


def test_a_page_is_its_picture() -> None:
    image = decoded(page(jpeg(250)))
    assert isinstance(image, Image)
    assert image.pixels.shape == (3, 8, 12)
    assert abs(int(image.pixels[0, 4, 6]) - 250) < 8
    assert int(image.pixels[2, 4, 6]) < 16


def test_a_clip_is_its_frames_with_their_times() -> None:
    frames = tuple(Frame(at / 2, jpeg(10 + 100 * at)) for at in range(3))
    video = decoded(CanonicalClip(0.0, 1.5, 12, 8, (), frames))
    assert isinstance(video, Video)
    assert video.frames.shape == (3, 3, 8, 12)
    assert video.seconds == [0.0, 0.5, 1.0]
    assert int(video.frames[2, 0, 4, 6]) > int(video.frames[0, 0, 4, 6]) + 150


def test_a_span_is_its_samples() -> None:
    sound = decoded(CanonicalAudio(np.array([0, -32768, 16384], np.int16)))
    assert isinstance(sound, Sound)
    assert sound.samples.tolist() == [0.0, -1.0, 0.5]


def test_a_page_without_a_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a CanonicalPage with a picture"):
        decoded(page(b""))
