"""Frames and their times: variable rate, rotation, single frames, and what is skipped while looking for them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from tests.workers.media.tiny import Writer
from workers.inputs import Frame
from workers.media import video
from workers.media.sandbox import Limits

Opened = Callable[[Path], BinaryIO]


def grey_of(frame: Frame) -> float:
    return float(np.asarray(Image.open(io.BytesIO(frame.jpeg))).mean())


def test_variable_frame_times_are_exact(make_video: Callable[..., Path], opened: Opened, limits: Limits) -> None:
    pts = [0, 1, 2, 10, 11, 30, 31, 50]
    found = video.scan(opened(make_video("matroska", "libx264", len(pts), 10, pts)), limits)
    assert found.times_s.tolist() == pytest.approx([each / 10 for each in pts])
    assert found.gaps == ()


def test_the_frame_shown_at_a_time_is_the_last_one_before_it(
    make_video: Callable[..., Path], opened: Opened, limits: Limits
) -> None:
    source = opened(make_video("mp4", "libx264", 200, 10))
    wanted = [0.0, 0.09, 3.05, 3.07, 12.0, 19.99, 100.0, -1.0]
    found = list(video.frames(source, limits, wanted))
    assert [frame.time_s for frame in found] == pytest.approx([0.0, 3.0, 12.0, 19.9])
    for frame in found:
        assert grey_of(frame) == pytest.approx(20 + 200 * round(frame.time_s * 10) // 199, abs=4)


def test_skipping_groups_changes_no_frame(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "groups.mp4"
    writer = Writer(path, "mp4")
    stream = writer.add_video("libx264", fps=10, g="12", bf="3", sc_threshold="0", **{"x264-params": "open-gop=1"})
    writer.video(stream, [np.full((48, 64, 3), 2 * index, np.uint8) for index in range(120)])
    writer.close()
    source = opened(path)
    times = video.scan(source, limits).times_s
    every = {frame.time_s: grey_of(frame) for frame in video.frames(source, limits, times.tolist())}
    assert len(every) == 120
    chosen = times[[3, 11, 12, 13, 47, 59, 60, 96, 119]].tolist()
    few = list(video.frames(source, limits, chosen))
    assert [frame.time_s for frame in few] == chosen
    assert [grey_of(frame) for frame in few] == pytest.approx([every[time] for time in chosen], abs=0.01)


def test_a_video_of_one_frame_works(make_video: Callable[..., Path], opened: Opened, limits: Limits) -> None:
    source = opened(make_video("mp4", "libx264", 1))
    found = video.scan(source, limits)
    assert (len(found.times_s), len(found.shots)) == (1, 1)
    times = video.sample_times(found.shots)
    assert [frame.time_s for frame in video.frames(source, limits, times)] == [0.0]


def test_no_times_need_no_child(make_video: Callable[..., Path], opened: Opened, limits: Limits) -> None:
    assert list(video.frames(opened(make_video()), limits, [])) == []


@pytest.mark.parametrize(("file", "size"), [("rot90.mp4", (432, 768)), ("rot270_3frames.mov", (320, 568))])
def test_turned_video_is_shown_upright(
    file: str, size: tuple[int, int], media: Path, opened: Opened, limits: Limits
) -> None:
    source = opened(media / "video" / file)
    (frame,) = video.frames(source, limits, [0.0])
    assert Image.open(io.BytesIO(frame.jpeg)).size == size
    assert frame.time_s == 0.0


def test_rotation_turns_the_right_way(media: Path, opened: Opened, limits: Limits) -> None:
    """`rot90.mp4` is `cockatoo.mp4` stored as it is, with a matrix that turns it clockwise."""
    (turned,) = video.frames(opened(media / "video/rot90.mp4"), limits, [0.0])
    (plain,) = video.frames(opened(media / "video/cockatoo.mp4"), limits, [0.0])
    upright = np.asarray(Image.open(io.BytesIO(turned.jpeg)).convert("L")).astype(float)
    expected = np.rot90(np.asarray(Image.open(io.BytesIO(plain.jpeg)).convert("L")).astype(float), -1)
    assert np.abs(upright - expected).mean() < 8


def test_real_videos_open_with_their_frame_counts(media: Path, opened: Opened, limits: Limits) -> None:
    for file, count, shots in [("alpha.webm", 150, 1), ("h264_10bit.mp4", 30, 1), ("no_duration.webm", 74, 1)]:
        found = video.scan(opened(media / "video" / file), limits)
        assert (len(found.times_s), len(found.shots)) == (count, shots), file


def test_shots_of_the_developer_media_are_found(media: Path, opened: Opened, limits: Limits) -> None:
    """The short form of `tests/evals/eval_shots.py`."""
    for file, expected in [("bikes.mp4", [1.2, 3.04, 5.48, 7.48, 9.68]), ("nasa.mp4", [8.08]), ("pool.mp4", [])]:
        found = video.scan(opened(media / "video" / file), limits)
        assert [shot.start_s for shot in found.shots[1:]] == pytest.approx(expected, abs=0.04), file


def test_all_clips_are_read_in_one_pass(
    make_video: Callable[..., Path], opened: Opened, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each clip's frames, and the same frame for two of them that show it; progress for each frame."""
    started: list[str] = []
    run = video.run
    monkeypatch.setattr(video, "run", lambda name, *args: started.append(name) or run(name, *args))
    source = opened(make_video("matroska", "libx264", 5, 10, [0, 1, 50, 250, 251]))
    times = [[0.0, 0.5, 4.0], [6.0, 11.0], [], [13.0, 14.0, 25.05], [26.0]]
    shares: list[float] = []
    found = list(video.clips(source, limits, times, on_progress=shares.append))
    assert [[frame.time_s for frame in clip] for clip in found] == [
        pytest.approx(clip) for clip in ([0.0, 0.1], [5.0], [], [5.0, 25.0], [25.1])
    ]
    assert started == ["frames"]
    assert len(shares) == 6
    assert shares == sorted(shares)


@pytest.mark.parametrize(("format", "codec"), [("mp4", "libx264"), ("mpegts", "mpeg2video"), ("mpeg", "mpeg1video")])
def test_clips_give_what_each_would_alone(
    format: str, codec: str, make_video: Callable[..., Path], opened: Opened, limits: Limits
) -> None:
    source = opened(make_video(format, codec, 200, 25))
    times = [[start + 0.5 * k for k in range(4)] for start in (0, 2, 4, 6)]
    together = list(video.clips(source, limits, times))
    for clip, alone in zip(together, times, strict=True):
        each = list(video.frames(source, limits, alone))
        assert [frame.time_s for frame in clip] == [frame.time_s for frame in each]
        assert [grey_of(frame) for frame in clip] == pytest.approx([grey_of(frame) for frame in each], abs=0.5)
