"""How much fits beside the weights, by DESIGN's own counts."""

import pytest

from workers.engine.checkpoint import configs
from workers.engine.checkpoint.capacity import capacity, kv_bytes, state_bytes
from workers.engine.config import OmniConfig

RAW = configs.reference()
BF16 = OmniConfig.from_dict(RAW)
QUANTISED = OmniConfig.from_dict({**RAW, "quantization_config": configs.quantization_config("FP8", {})})
CASES = [
    (BF16, 66_031_203_904, 16, (186, 222, 84)),
    (QUANTISED, 35_166_818_784, 16, (683, 757, 395)),
    (QUANTISED, 22_389_657_936, 16, (872, 967, 504)),
    (BF16, 66_031_203_904, 8, (191, 229, 85)),
    (QUANTISED, 35_166_818_784, 8, (703, 782, 401)),
    (QUANTISED, 22_389_657_936, 8, (898, 999, 512)),
]


@pytest.mark.parametrize(("config", "weights", "window", "expected"), CASES, ids=lambda value: str(value)[:12])
def test_an_80_gb_card_holds_as_many_as_the_design_says(
    config: OmniConfig, weights: int, window: int, expected: tuple[int, ...]
) -> None:
    found = capacity(config, weights, 80 << 30, window)
    assert tuple(found.sequences[kind] for kind in ("audio", "page", "video")) == expected
    assert found.fits


def test_a_state_and_a_position_take_the_bytes_of_the_specification() -> None:
    assert state_bytes(BF16, 0) == 48_234_496 + 23 * 4 * 6144 * 2
    assert state_bytes(BF16, 1) - state_bytes(BF16, 0) == 23 * (2 * 5120 + 4 * 64)
    assert (kv_bytes(BF16), kv_bytes(QUANTISED)) == (6_144, 3_072)


def test_a_card_that_is_too_small_holds_nothing() -> None:
    found = capacity(BF16, 66_031_203_904, 48 << 30)
    assert not found.fits and found.free_bytes < 0 and set(found.sequences.values()) == {0}
