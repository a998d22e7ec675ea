import pytest
import torch

from workers.engine.checkpoint import configs
from workers.engine.config import OmniConfig
from workers.engine.memory.state import Limits, State

TEXT = OmniConfig.from_dict(configs.reference()).text


def allocate(limits: Limits, **terms: torch.dtype) -> State:
    return State.allocate(TEXT, limits, dtype=torch.bfloat16, device="meta", **terms)


def test_the_published_model_has_its_sizes() -> None:
    state = allocate(Limits(slots=9, blocks=5, block=256, window=8, media_rows=100, ring=4))
    assert (len(state.mamba), len(state.kv)) == (23, 6)
    layer = state.mamba[0]
    assert (layer.ssm_state.shape, layer.ssm_state.dtype) == ((9, 64, 64, 128), torch.float32)
    assert (layer.window_xb.shape, layer.window_xb.dtype) == ((9, 8, 5120), torch.bfloat16)
    assert (layer.window_dt.shape, layer.window_dt.dtype) == ((9, 8, 64), torch.float32)
    assert (layer.conv_ring.shape, layer.conv_ring.dtype) == ((9, 4, 6144), torch.bfloat16)
    assert (state.kv[0].shape, state.kv[0].dtype) == ((5, 2, 256, 2, 128), torch.bfloat16)
    assert (state.last_token.shape, state.media.shape) == ((9,), (100, 2688))


def test_keys_and_values_may_have_a_dtype_of_their_own() -> None:
    assert allocate(Limits(2, 2, 16), kv_dtype=torch.float8_e4m3fn).kv[0].dtype == torch.float8_e4m3fn


def test_a_ring_shorter_than_the_convolution_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 positions, got 2"):
        allocate(Limits(2, 2, 16, ring=2))
