"""Frames are shown once each, in requests that are not too large, and every second of a clip gets its run."""

import io
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.workers.backends.remote.conftest import clip, jpeg
from workers.backends.asking.clips import LONGEST_RUN_S, grouped, period_ms, runs_of, seen
from workers.backends.remote.data_uris import mp4_of
from workers.inputs import CanonicalClip, Frame, Shot


@settings(max_examples=200, deadline=None)
@given(data=st.data(), most=st.integers(2, 40))
def test_runs_cover_a_clip_and_requests_hold_what_they_may(data: Any, most: int) -> None:
    edges = [50.0, *sorted(data.draw(st.lists(st.floats(50.1, 170.0), min_size=1, max_size=8, unique=True)))]
    times = sorted(data.draw(st.lists(st.floats(50.0, 169.9), max_size=60, unique=True)))
    shots = tuple(Shot(a, b) for a, b in pairwise(edges))
    frames = tuple(Frame(time_s, b"") for time_s in times if time_s < edges[-1])
    runs = runs_of(CanonicalClip(50.0, edges[-1], 2, 2, shots, frames), most)
    assert [run.start_s for run in runs] == [edges[0], *(run.end_s for run in runs[:-1])] and runs[-1].end_s == edges[
        -1
    ]
    assert all(run.start_s <= frame.time_s < run.end_s for run in runs for frame in run.frames)
    assert [frame for run in runs for frame in run.frames] == list(frames)
    assert set(edges) <= {run.start_s for run in runs} | {edges[-1]}
    groups = grouped([run for run in runs if run.frames], most)
    assert [run for group in groups for run in group] == [run for run in runs if run.frames]
    for group in groups:
        shown = seen(group)
        assert sum(len(run.frames) for run in group) == shown[-1].last_frame <= most
        assert [run.first_frame for run in shown] == [1, *(run.last_frame + 1 for run in shown[:-1])]


def test_a_long_shot_is_told_in_pieces_of_equal_length() -> None:
    runs = runs_of(clip(61.0), 128)
    assert len(runs) == 4
    assert all(run.end_s - run.start_s <= LONGEST_RUN_S and len(run.frames) >= 15 for run in runs)


def test_a_still_picture_is_told_once() -> None:
    still = CanonicalClip(0.0, 90.0, 2, 2, (Shot(0.0, 90.0),), (Frame(0.0, b""),))
    assert [(run.start_s, run.end_s) for run in runs_of(still, 128)] == [(0.0, 90.0)]


@pytest.mark.parametrize(("frames_per_s", "rate"), [(1.0, 1.0), (2.0, 2.0), (3.0, 1000 / 333)])
def test_a_video_holds_each_frame_once_at_its_rate(frames_per_s: float, rate: float) -> None:
    frames = clip(4.0, 3.0, frames_per_s=frames_per_s).frames
    with av.open(io.BytesIO(mp4_of(frames))) as container:
        (stream,) = container.streams.video
        told = float(stream.average_rate or 0)
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert told == pytest.approx(rate) and len(shown) == len(frames)
    for picture, frame in zip(shown, frames, strict=True):
        wanted = np.asarray(Image.open(io.BytesIO(frame.jpeg)).convert("RGB"), np.float32)
        assert np.abs(picture - wanted).mean() < 6
    # What a reader says of frame k: `k * int(1000 / rate)` ms.
    assert int(1000 / told + 1e-6) == period_ms(frames)


def test_odd_sizes_and_single_frames_can_be_sent() -> None:
    for width, height in ((97, 65), (3, 2), (1, 1)):
        with av.open(io.BytesIO(mp4_of([Frame(7.0, jpeg(width, height))]))) as container:
            (frame,) = container.decode(video=0)
            assert (frame.width, frame.height) == (max(2, width // 2 * 2), max(2, height // 2 * 2))
