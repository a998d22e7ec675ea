"""Every container that is taken, each made by PyAV here, and what its times become."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from omni_jobs.errors import SourceError
from omni_jobs.job import Medium
from tests.workers.media.tiny import ONSET_S, SOUND_S, Writer, onset_s, plain_pictures, tone
from workers.media import audio, probe, video
from workers.media.sandbox import Limits

Opened = Callable[[Path], BinaryIO]

# The last column: seconds by which the encoder's run-up moves the sound where the container cannot say so.
SOUNDS = [
    ("wav", "pcm_s16le", 16_000, "mono", 0.0),
    ("w64", "pcm_s24le", 48_000, "stereo", 0.0),
    ("mp3", "libmp3lame", 44_100, "stereo", 0.0),
    ("flac", "flac", 44_100, "5.1", 0.0),
    ("ogg", "libopus", 48_000, "mono", 0.0),
    ("adts", "aac", 44_100, "mono", 0.025),
    ("mp4", "aac", 44_100, "stereo", 0.0),
    ("mov", "pcm_s16be", 44_100, "mono", 0.0),
    ("matroska", "libopus", 48_000, "7.1", 0.0),
    ("avi", "libmp3lame", 44_100, "mono", 0.03),
    ("mpegts", "aac", 48_000, "mono", 0.025),
    ("mpeg", "mp2", 48_000, "mono", 0.015),
    ("aiff", "pcm_s16be", 44_100, "mono", 0.0),
    ("caf", "alac", 44_100, "mono", 0.0),
    ("amr", "libopencore_amrnb", 8_000, "mono", 0.02),
    ("asf", "wmav2", 44_100, "stereo", 0.05),
    ("flv", "aac", 44_100, "mono", 0.025),
    ("ac3", "ac3", 48_000, "stereo", 0.006),
    ("eac3", "eac3", 48_000, "mono", 0.006),
]
VIDEOS = [
    ("mp4", "libx264", 10),
    ("mov", "mpeg4", 10),
    ("matroska", "libx264", 10),
    ("webm", "libvpx-vp9", 10),
    ("mp4", "libsvtav1", 10),
    ("avi", "mpeg4", 10),
    ("mpegts", "mpeg2video", 25),
    ("mpeg", "mpeg1video", 25),
    ("asf", "wmv2", 10),
    ("flv", "flv1", 10),
    ("mxf", "mpeg2video", 25),
    ("gif", "gif", 10),
]


@pytest.mark.parametrize(("format", "codec", "rate_hz", "layout", "late_s"), SOUNDS, ids=lambda v: str(v))
def test_sound_of_every_container_begins_when_it_should(
    format: str,
    codec: str,
    rate_hz: int,
    layout: str,
    late_s: float,
    make_sound: Callable[..., Path],
    opened: Opened,
    tmp_path: Path,
    limits: Limits,
) -> None:
    sound = audio.decode(opened(make_sound(format, codec, rate_hz, layout)), limits, tmp_path)
    assert sound.samples.dtype == np.int16
    assert not sound.samples.flags.writeable
    assert sound.gaps == ()
    assert sound.start_s + onset_s(sound.samples) == pytest.approx(ONSET_S + late_s, abs=0.01)
    assert SOUND_S - 0.01 <= sound.end_s < SOUND_S + 0.15
    assert 0.4 * 32768 < np.abs(sound.samples[32_000:40_000].astype(int)).max() < 0.6 * 32768


@pytest.mark.parametrize(("format", "codec", "fps"), VIDEOS, ids=lambda v: str(v))
def test_video_of_every_container_has_all_its_frames(
    format: str, codec: str, fps: int, make_video: Callable[..., Path], opened: Opened, limits: Limits
) -> None:
    found = video.scan(opened(make_video(format, codec, 20, fps)), limits)
    assert len(found.times_s) == 20
    assert (found.width_px, found.height_px, found.start_s, found.gaps) == (64, 48, 0.0, ())
    assert np.all(np.diff(found.times_s) > 0)
    assert len(found.shots) == 1
    assert found.shots[0].end_s == found.end_s == pytest.approx(found.times_s[-1] + found.times_s[1], abs=0.002)


def test_a_probe_names_streams_and_length(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "both.mp4"
    writer = Writer(path, "mp4")
    writer.container.metadata["title"] = "A short\nfilm"
    sound, picture = writer.add_sound("aac", 44_100, "stereo"), writer.add_video("libx264")
    sound.metadata["language"] = "deu"
    writer.video(picture, plain_pictures(20))
    writer.sound(sound, tone(44_100, channels=2))
    writer.close()
    found = probe.probe(opened(path), limits)
    assert (found.medium, found.container, found.title) == (Medium.VIDEO, "mp4", "A shortfilm")
    assert found.audio is not None
    assert found.video is not None
    assert (found.audio.codec, found.audio.rate_hz, found.audio.channels, found.audio.language) == (
        "aac", 44_100, 2, "deu",
    )  # fmt: skip
    assert (found.video.codec, found.video.width_px, found.video.height_px, found.video.fps) == ("h264", 64, 48, 10.0)
    assert found.duration_s == pytest.approx(3.0, abs=0.05)
    assert found.video.duration_s == pytest.approx(2.0)
    assert found.as_json()["medium"] == "video"


def test_a_file_with_sound_only_is_audio_whatever_its_container(
    make_sound: Callable[..., Path], opened: Opened, limits: Limits
) -> None:
    source = opened(make_sound("mp4", "aac", 44_100))
    assert probe.probe(source, limits).medium is Medium.AUDIO
    with pytest.raises(SourceError, match="without a video stream") as caught:
        video.scan(source, limits)
    assert caught.value.type == "no_video"


def test_a_song_with_a_cover_is_audio(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "song.mp3"
    writer = Writer(path, "mp3")
    sound, cover = writer.add_sound("libmp3lame", 44_100), writer.add_video("png")
    writer.sound(sound, tone(44_100))
    writer.video(cover, plain_pictures(1))
    writer.close()
    found = probe.probe(opened(path), limits)
    assert (found.medium, found.video) == (Medium.AUDIO, None)


def test_video_without_sound_says_so(
    make_video: Callable[..., Path], opened: Opened, limits: Limits, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="without a sound stream") as caught:
        audio.decode(opened(make_video()), limits, tmp_path)
    assert caught.value.type == "no_audio"


def test_sound_that_starts_later_than_the_picture_keeps_its_place(
    tmp_path: Path, opened: Opened, limits: Limits
) -> None:
    path = tmp_path / "late.mkv"
    writer = Writer(path, "matroska")
    picture, sound = writer.add_video("libx264"), writer.add_sound("flac", 16_000)
    writer.video(picture, plain_pictures(40))
    writer.sound(sound, tone(16_000), start_s=0.5)
    writer.close()
    found = audio.decode(opened(path), limits, tmp_path)
    assert found.start_s == pytest.approx(0.5, abs=0.002)
    assert found.start_s + onset_s(found.samples) == pytest.approx(1.5, abs=0.002)


def test_a_pause_in_the_timestamps_becomes_silence(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "pause.mkv"
    writer = Writer(path, "matroska")
    sound = writer.add_sound("pcm_s16le", 16_000)
    resumed = tone(16_000, 1.0, 0.0)
    context = sound.codec_context
    for start_s in (0.0, 7.0):
        frame = _frame(resumed, start_s)
        context.open(strict=False)
        writer.container.mux(sound.encode(frame))
    writer.container.mux(sound.encode(None))
    writer.close()
    found = audio.decode(opened(path), limits, tmp_path)
    assert found.end_s == pytest.approx(8.0, abs=0.001)
    assert [(gap.start_s, gap.end_s, gap.reason) for gap in found.gaps] == [(1.0, 7.0, "hole")]
    assert not found.samples[16_100:111_900].any()
    assert onset_s(found.samples[64_000:]) == pytest.approx(3.0, abs=0.002)


def _frame(wave: np.ndarray, start_s: float):
    from av.audio.frame import AudioFrame

    frame = AudioFrame.from_ndarray((wave * 32767).astype(np.int16), format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 16_000, round(start_s * 16_000), Fraction(1, 16_000)
    return frame


def test_a_part_of_the_sound_is_cut_exactly(
    make_sound: Callable[..., Path], opened: Opened, limits: Limits, tmp_path: Path
) -> None:
    reached: list[float] = []
    source = opened(make_sound("mp4", "aac", 44_100))
    found = audio.decode(source, limits, tmp_path, start_s=0.75, end_s=2.25, on_progress=reached.append)
    assert (found.start_s, len(found.samples)) == (0.75, 24_000)
    assert found.start_s + onset_s(found.samples) == pytest.approx(ONSET_S, abs=0.003)
    assert reached
    assert reached[-1] == pytest.approx(2.25, abs=0.01)
    with pytest.raises(SourceError, match="between 10 s and the end") as caught:
        audio.decode(source, limits, tmp_path, start_s=10)
    assert caught.value.type == "empty"


def test_channels_are_averaged(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "two.wav"
    writer = Writer(path, "wav")
    sound = writer.add_sound("pcm_s16le", 16_000, "stereo")
    wave = tone(16_000, channels=2)
    wave[1] *= 0.5
    writer.sound(sound, wave)
    writer.close()
    found = audio.decode(opened(path), limits, tmp_path)
    assert np.abs(found.samples - wave.mean(axis=0) * 32768).max() <= 2


@pytest.mark.parametrize("format", ["flac", "mp3", "wav", "mp4"])
def test_a_file_cut_in_half_names_the_missing_end(
    format: str, make_sound: Callable[..., Path], opened: Opened, limits: Limits, tmp_path: Path
) -> None:
    codec = {"flac": "flac", "mp3": "libmp3lame", "wav": "pcm_s16le", "mp4": "aac"}[format]
    path = make_sound(format, codec, 44_100) if format != "mp4" else _faststart(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    found = audio.decode(opened(path), limits, tmp_path)
    assert found.end_s < 2.9
    last = found.gaps[-1]
    assert (last.reason, last.end_s) == ("missing", pytest.approx(SOUND_S, abs=0.05))
    assert last.start_s == pytest.approx(found.end_s, abs=0.05)


def _faststart(folder: Path) -> Path:
    path = folder / "front.mp4"
    writer = Writer(path, "mp4", movflags="faststart")
    sound = writer.add_sound("aac", 44_100)
    writer.sound(sound, tone(44_100))
    writer.close()
    return path


@pytest.mark.parametrize(("end_s", "gap"), [(None, (6.0, 10.0)), (9.0, (6.0, 9.0)), (5.0, None), (6.1, None)])
def test_a_file_that_ends_too_early_has_a_gap_as_far_as_it_was_asked_for(
    end_s: float | None, gap: tuple[float, float] | None, tmp_path: Path, opened: Opened, limits: Limits
) -> None:
    path = tmp_path / "cut.wav"
    writer = Writer(path, "wav")
    writer.sound(writer.add_sound("pcm_s16le", 16_000), tone(16_000, 10.0))
    writer.close()
    path.write_bytes(path.read_bytes()[: -4 * 32_000])
    sound = audio.decode(opened(path), limits, tmp_path, end_s=end_s)
    assert [(found.start_s, found.end_s, found.reason) for found in sound.gaps] == (
        [] if gap is None else [(pytest.approx(gap[0], abs=0.01), pytest.approx(gap[1], abs=0.01), "missing")]
    )


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_f32le", "pcm_u8", "pcm_s24le"])
def test_a_channel_that_is_the_inverse_of_the_other_is_no_silence(
    codec: str, tmp_path: Path, opened: Opened, limits: Limits
) -> None:
    path = tmp_path / "inverted.wav"
    writer = Writer(path, "wav")
    wave = tone(16_000, channels=2)
    wave[1] *= -1.0
    writer.sound(writer.add_sound(codec, 16_000, "stereo"), wave)
    writer.close()
    sound = audio.decode(opened(path), limits, tmp_path)
    loud = sound.samples[17_000:47_000].astype(int)
    assert np.abs(loud).max() == pytest.approx(0.5 * 32768, rel=0.02)
    assert np.abs(np.diff(loud)).max() < 3_200  # of a sine at 440 Hz: it never jumps to the other channel
    assert 2.0 <= sound.one_channel_s <= 3.0  # in steps of a second


def test_channels_that_differ_are_averaged_as_ever(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "stereo.wav"
    writer = Writer(path, "wav")
    wave = tone(16_000, channels=2)
    wave[1] *= -0.5
    writer.sound(writer.add_sound("pcm_s16le", 16_000, "stereo"), wave)
    writer.close()
    sound = audio.decode(opened(path), limits, tmp_path)
    assert np.abs(sound.samples[17_000:].astype(int)).max() == pytest.approx(0.125 * 32768, rel=0.02)
    assert sound.one_channel_s == 0
