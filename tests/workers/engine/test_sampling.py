import math
from typing import Any

import pytest

from omni_jobs.errors import UsageError
from workers.engine.sampling import PRESETS, SamplingParams, Task


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("temperature", [0, 0.0, 1, 100.0], [-0.1, 101, math.nan, math.inf, True, "1", None]),
        ("top_p", [1, 0.001], [0, 0.0, 1.01, -1, math.nan, True, "0.5"]),
        ("top_k", [0, 1, 2**31 - 1], [-1, 2**31, 1.0, True]),
        ("seed", [0, -1, 2**64 - 1, -(2**63)], [2**64, -(2**63) - 1, 1.5, True, None]),
        ("max_tokens", [1, 262_144], [0, -1, 262_145, 1.0, True]),
        ("stop_ids", [(), (0,), (2, 11)], [(-1,), (1.0,), (True,)]),
        ("stop", [(), ("a",) * 16, ("x" * 1024,)], [("a",) * 17, ("",), ("x" * 1025,), (1,)]),
        ("thinking_budget", [None, 0, 262_144], [-1, 1.5, True]),
        ("thinking_grace", [0, 1024], [-1, None, True]),
        ("json_schema", [None, {}], [[], "{}", True]),
    ],
)
def test_values_have_limits_and_the_error_names_the_field(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(SamplingParams(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(UsageError, match=f"^{name}: expected ") as caught:
            SamplingParams(**{name: value})
        assert caught.value.pointer == f"/{name}"


def test_the_bits_of_a_seed_are_those_of_an_int64() -> None:
    for seed, bits in [(0, 0), (-1, -1), (2**64 - 1, -1), (2**63, -(2**63)), (2**63 - 1, 2**63 - 1)]:
        assert SamplingParams(seed=seed).seed_bits == bits


def test_greedy_is_what_no_seed_can_change() -> None:
    assert SamplingParams(temperature=0).greedy
    assert SamplingParams(temperature=1.0, top_k=1).greedy
    assert not SamplingParams(temperature=0.2, top_k=2).greedy


def test_presets_are_those_of_the_card() -> None:
    def row(task: Task) -> tuple[Any, ...]:
        preset = PRESETS[task]
        params = preset.params
        budget = (params.thinking_budget, params.thinking_grace, preset.reasoning_budget)
        return preset.thinking, params.temperature, params.top_p, params.top_k, params.max_tokens, *budget

    assert row(Task.REASONING) == row(Task.VIDEO) == (True, 0.6, 0.95, 0, 20_480, 16_384, 1024, 16_384)
    assert row(Task.INSTRUCT) == (False, 0.2, 1.0, 1, 1024, None, 0, None)
    assert row(Task.SPEECH) == (False, 1.0, 1.0, 1, 1024, None, 0, None)
    assert row(Task.PAGE) == (False, 0.2, 1.0, 1, 32_000, None, 0, None)
    assert set(PRESETS) == set(Task)
    assert all(preset.params.stop_ids == (2, 11) for preset in PRESETS.values())
