"""The costs that spec 10.4 gives for the published sizes."""

import pytest

from workers.engine.checkpoint import configs
from workers.engine.config import OmniConfig
from workers.engine.costs import clip_flop, image_flop, tubelet_flop
from workers.engine.features.grids import Grid

PUBLISHED = OmniConfig.from_dict(configs.reference())


@pytest.mark.parametrize(
    ("grid", "tflop"), [(Grid(32, 32), 1.5), (Grid(48, 48), 4.0), (Grid(90, 90), 21.6), (Grid(104, 128), 46.9)]
)
def test_an_image_costs_what_was_computed(grid: Grid, tflop: float) -> None:
    assert image_flop(PUBLISHED, grid) / 1e12 == pytest.approx(tflop, rel=0.05)


def test_a_clip_of_256_frames_costs_what_was_computed() -> None:
    assert 128 * tubelet_flop(PUBLISHED, Grid(32, 32)) / 1e12 == pytest.approx(198, rel=0.05)


def test_half_a_minute_of_sound_costs_what_was_computed() -> None:
    assert clip_flop(PUBLISHED, 3000) / 1e12 == pytest.approx(0.52, rel=0.05)
