"""`gated_norm_kernel` against `gated_norm_ref`, and both against fp64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.workers.engine.kernels.launched import needs_triton
from workers.engine.kernels.gated_norm import Tile, gated_norm_kernel, gated_norm_ref

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GPU = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")]
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # Triton's interpreter cuts bf16 off where a GPU rounds
EPS = 1e-5
pytestmark = needs_triton


def inputs(tokens: int, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """X, a gate that is a slice of something wider, and the weight."""
    torch.manual_seed(0)
    wide = 3 * torch.randn(tokens, 2 * channels + 8)
    x, weight = torch.randn(tokens, channels), torch.randn(channels)
    wide, x, weight = (each.to(dtype).to(DEVICE) for each in (wide, x, weight))
    return x, wide[:, 8 : 8 + channels], weight


def exact(x: Tensor, gate: Tensor, weight: Tensor, groups: int) -> Tensor:
    gated = (x.double() * F.silu(gate.double())).unflatten(-1, (groups, -1))
    return weight.double() * (gated / (gated.square().mean(-1, keepdim=True) + EPS).sqrt()).flatten(-2)


SIZES = [
    pytest.param(1, 3, 8, id="T1-G3-8"),
    pytest.param(7, 3, 16, id="T7-G3-16"),
    pytest.param(257, 8, 512, marks=GPU, id="T257-G8-512"),
]


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize(("tokens", "groups", "width"), SIZES)
def test_the_error_is_that_of_the_reference(tokens: int, groups: int, width: int, dtype: torch.dtype) -> None:
    x, gate, weight = inputs(tokens, groups * width, dtype)
    wanted = exact(x, gate, weight, groups)
    got = gated_norm_kernel(x, gate, weight, groups, EPS)
    ref = gated_norm_ref(x, gate, weight, groups, EPS)
    assert (got.dtype, got.shape) == (ref.dtype, ref.shape)
    assert (got - wanted).abs().max() <= 2 * (ref - wanted).abs().max() + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize(("tokens", "groups", "width"), SIZES)
def test_codes_are_the_value_over_the_scale(tokens: int, groups: int, width: int, dtype: torch.dtype) -> None:
    x, gate, weight = inputs(tokens, groups * width, dtype)
    for scale in (torch.tensor(each, device=DEVICE) for each in (0.013, 1e-4)):
        value = gated_norm_kernel(x, gate, weight, groups, EPS)
        codes = gated_norm_kernel(x, gate, weight, groups, EPS, scale)
        wanted = (value.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        assert codes.dtype == torch.float8_e4m3fn
        # The interpreter loses carries: nine in ten are right there.
        assert (codes.float() != wanted.float()).float().mean() <= (0.0 if DEVICE == "cuda" else 0.1)
    assert codes.float().abs().max() == 448


@pytest.mark.parametrize("tile", [Tile(1, 1), Tile(2, 1), Tile(8, 4)], ids=str)
def test_a_row_does_not_know_its_neighbours(tile: Tile) -> None:
    x, gate, weight = inputs(7, 48, torch.float32)
    x[[0, 2]] = torch.nan
    whole = gated_norm_kernel(x, gate, weight, 3, EPS, tile=tile)
    assert torch.equal(whole[1], gated_norm_kernel(x[1:2], gate[1:2], weight, 3, EPS, tile=tile)[0])
    assert whole[[1, 3, 4, 5, 6]].isfinite().all()
    assert whole[[0, 2]].isnan().all()


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # the interpreter's numpy; 1 / infinity is meant
def test_no_rows_and_gates_that_are_shut_or_wide_open() -> None:
    x, gate, weight = inputs(2, 48, torch.float32)
    assert gated_norm_kernel(x[:0], gate[:0], weight, 3, EPS).shape == (0, 48)
    gate[0], gate[1] = -300.0, 300.0
    got, ref = gated_norm_kernel(x, gate, weight, 3, EPS), gated_norm_ref(x, gate, weight, 3, EPS)
    assert torch.allclose(got, ref, rtol=1e-5, atol=1e-6)
