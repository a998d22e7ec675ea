"""Pools cut for the memory that is left."""

import pytest
import torch

from workers.engine.checkpoint import configs
from workers.engine.checkpoint.capacity import capacity
from workers.engine.config import OmniConfig
from workers.engine.memory.sizes import memory_for
from workers.engine.memory.state import Limits, State
from workers.engine.runner import limits_of
from workers.engine.scheduler import Budgets

PUBLISHED, TINY = OmniConfig.from_dict(configs.reference()), OmniConfig.from_dict(configs.tiny())


def size_bytes(config: OmniConfig, limits: Limits) -> int:
    state = State.allocate(config.text, limits, dtype=getattr(torch, config.torch_dtype), device="meta")
    mamba = [
        one for layer in state.mamba for one in (layer.ssm_state, layer.window_xb, layer.window_dt, layer.conv_ring)
    ]
    return sum(one.nbytes for one in (*mamba, *state.kv, state.last_token, state.media))


@pytest.mark.parametrize(
    ("config", "free_bytes", "block"),
    [(PUBLISHED, 40_000_000_000, 256), (PUBLISHED, 9_000_000_000, 64), (TINY, 10**8, 16)],
)
@pytest.mark.parametrize("window", [1, 16])
def test_the_tensors_fill_the_memory_and_no_more(config: OmniConfig, free_bytes: int, block: int, window: int) -> None:
    dtype = getattr(torch, config.torch_dtype)
    memory = memory_for(config.text, free_bytes, window=window, dtype=dtype, block_size=block, most_slots=10_000)
    used = size_bytes(config, limits_of(memory, Budgets(tokens=10_000, window=window)))
    assert 0.97 * free_bytes < used <= free_bytes


def test_as_many_run_at_once_as_doctor_promises() -> None:
    """Save what the embedding pool takes."""
    promised = capacity(PUBLISHED, 32_750_000_000, 80_000_000_000).sequences["audio"]
    free = 80_000_000_000 - 4_600_000_000 - 32_750_000_000
    slots = memory_for(PUBLISHED.text, free, window=16, dtype=torch.bfloat16, positions=4650).slots.count
    assert 0.95 * promised < slots <= promised


def test_too_little_memory_is_refused_with_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"expected \d+ bytes for a sequence of 4096 positions, got 3"):
        memory_for(PUBLISHED.text, 100_000_000, window=16, dtype=torch.bfloat16)
