"""Canonical media survive the object store unchanged."""

import numpy as np
import pytest

from workers.inputs import CanonicalAudio, CanonicalClip, CanonicalPage, Frame, PageWord, Shot, Sound

PAGE = CanonicalPage(
    3, 595.0, 842.0, 1240, 1755, 150.0, 90, b"\xff\xd8jpeg", (PageWord(1, 2, 3, 4, "wörd", 0, 1, 11.0, True),),
    images_share=0.25, rulings=((0.0, 1.0, 2.0, 1.0),),
)  # fmt: skip
CLIP = CanonicalClip(1.5, 9.0, 640, 360, (Shot(1.5, 4.0), Shot(4.0, 9.0)), (Frame(2.04, b"a"), Frame(5.0, b"b")),
                     (Sound(1.5, 4.0, 0.5, -20.5),))  # fmt: skip


@pytest.mark.parametrize("media", [PAGE, CLIP], ids=["page", "clip"])
def test_what_is_read_back_is_what_was_written(media: CanonicalPage | CanonicalClip) -> None:
    data = media.to_bytes()
    assert type(media).from_bytes(data) == media
    assert media.to_bytes() == data  # the same input gives the same bytes: they are hashed


def test_sound_is_a_wav_that_is_read_back_sample_by_sample() -> None:
    samples = np.arange(-300, 300, dtype=np.int16)
    audio = CanonicalAudio(samples, 7.0)
    assert audio.to_bytes()[:4] == b"RIFF"
    back = CanonicalAudio.from_bytes(audio.to_bytes(), 7.0)
    assert (back.samples == samples).all() and back.start_s == 7.0 and back.duration_s == 600 / 16000


@pytest.mark.parametrize("bytes_kept", [0, 43, 44, 644, 1243])
def test_a_part_of_a_wav_is_refused_with_both_lengths(bytes_kept: int) -> None:
    data = CanonicalAudio(np.ones(600, np.int16)).to_bytes()
    with pytest.raises(ValueError, match=f"expected .* bytes.*, got {bytes_kept}"):
        CanonicalAudio.from_bytes(data[:bytes_kept])
    with pytest.raises(ValueError, match=r"expected 1244 bytes.*, got 1246"):
        CanonicalAudio.from_bytes(data + b"\0\0")


@pytest.mark.parametrize("samples", [np.zeros((2, 5), np.int16), np.zeros(5, np.float32)])
def test_other_shapes_are_refused_with_both_in_the_message(samples: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected \[N\] int16, got"):
        CanonicalAudio(samples)
