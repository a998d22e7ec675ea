import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.features.frames import labels, sample, times_s


@pytest.mark.parametrize(
    ("total", "source_fps", "fps", "most", "count"),
    [
        (3000, 25.0, 2.0, 256, 240),  # two minutes at two a second
        (3000, 25.0, 2.0, 128, 128),
        (3000, 25.0, 0.0, 256, 256),
        (10, 30.0, 2.0, 256, 1),
        (7, 30.0, 0.0, 0, 7),
        (60, 29.97, 2.0, 256, 4),
    ],
)
def test_frames_are_counted_as_the_card_serves(
    total: int, source_fps: float, fps: float, most: int, count: int
) -> None:
    indices = sample(total, source_fps=source_fps, fps=fps, most=most)
    assert len(indices) == count
    assert indices[0] == 0
    assert indices[-1] == (total - 1 if count > 1 else 0)


@given(st.integers(1, 5000), st.integers(1, 300))
def test_frames_are_those_of_a_truncated_linspace(total: int, most: int) -> None:
    count = min(total, most)
    expected = np.linspace(0, total - 1, count, dtype=int).tolist() if count < total else list(range(total))
    assert sample(total, source_fps=30.0, fps=0, most=most) == expected


def test_times_count_whole_milliseconds_per_frame() -> None:
    assert times_s([0, 15, 30], 29.97) == [0.0, 0.495, 0.99]
    assert times_s([0, 12], 25.0) == [0.0, 0.48]


def test_labels_name_the_frames_of_a_tubelet() -> None:
    assert labels(3, [0.0, 0.5, 1.0]) == [
        "Frame 1 sampled at 0.00 seconds and frame 2 sampled at 0.50 seconds: ",
        "Frame 3 sampled at 1.00 seconds: ",
    ]
    assert labels(2) == ["Frame 1 and frame 2: "]


@pytest.mark.parametrize(("total", "source_fps"), [(0, 30.0), (5, 0.0)])
def test_a_video_without_frames_or_rate_is_refused(total: int, source_fps: float) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        sample(total, source_fps=source_fps)


def test_times_that_do_not_match_the_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="each of 3 frames, got 2"):
        labels(3, [0.0, 0.5])
