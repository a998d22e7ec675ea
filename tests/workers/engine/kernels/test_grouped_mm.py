import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.workers.engine.kernels.launched import needs_triton
from workers.engine.checkpoint.formats import fp8_scale, quantise_fp8
from workers.engine.kernels.by_expert import by_expert
from workers.engine.kernels.experts import experts_kernel, experts_ref
from workers.engine.kernels.experts_fp8 import experts_fp8_kernel, experts_fp8_ref
from workers.engine.kernels.grouped_mm import TILES, Tile, grouped_down, grouped_up
from workers.engine.kernels.route import Routing
from workers.engine.kernels.weighted_sum import weighted_sum_kernel, weighted_sum_ref

pytestmark = [
    needs_triton,
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # Triton's interpreter
]

COUNT, TOP_K = 5, 2
# A code that stands on the border of two numbers may fall either way. The interpreter does not carry into the exponent.
E4M3_ERROR = 5e-3 if torch.cuda.is_available() else 0.1


def drawn(tokens: int, width: int, inner: int, device: str, count: int = COUNT, top_k: int = TOP_K) -> tuple:
    torch.manual_seed(tokens)
    routing = Routing(torch.rand(tokens, count).topk(top_k).indices.int(), torch.rand(tokens, top_k))
    up, down = torch.randn(count, inner, width) / width**0.5, torch.randn(count, width, inner) / inner**0.5
    x = torch.randn(tokens, width)
    return x.to(device), Routing(*(part.to(device) for part in routing)), up.to(device), down.to(device)


def in_fp8(stack: Tensor) -> tuple[Tensor, Tensor]:
    scale = torch.stack([fp8_scale(one) for one in stack])[:, None]
    return quantise_fp8(stack, scale[..., None]), scale


def error(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("tile", [Tile(16, 64, 64, 4, 2), Tile(32, 128, 128, 4, 2)], ids=["16x64", "32x128"])
@pytest.mark.parametrize("tokens", [1, 7, 60])
def test_rows_meet_the_weight_of_their_expert(tokens: int, tile: Tile, device: str) -> None:
    x, routing, up, down = (
        term.half() if isinstance(term, Tensor) else term for term in drawn(tokens, 80, 176, device)
    )
    pairs = by_expert(routing.experts, COUNT)
    expert = torch.searchsorted(pairs.ends, torch.arange(len(pairs.order), device=device), right=True)
    hidden = grouped_up(x, up, pairs, TOP_K, tile=tile)
    rows = x[pairs.order // TOP_K].float()
    expected = F.relu(torch.einsum("rd,rfd->rf", rows, up[expert].float())).square()
    assert error(hidden, expected) < 1e-3
    out = grouped_down(hidden, down, pairs, torch.float32, tile=tile)
    assert error(out, torch.einsum("rf,rdf->rd", hidden.float(), down[expert].float())) < 1e-3


@pytest.mark.parametrize("tokens", [0, 1, 7, 60])
def test_the_experts_of_the_kernel_are_those_of_torch(tokens: int, device: str) -> None:
    x, routing, up, down = (term.half() if isinstance(term, Tensor) else term for term in drawn(tokens, 80, 48, device))
    shared = torch.randn_like(x)
    expected = experts_ref(x.float(), routing, up.float(), down.float(), shared.float())
    got = experts_kernel(x, routing, up, down, shared)
    assert got.shape == expected.shape
    assert error(got, expected) < 2e-3


@pytest.mark.parametrize("tokens", [0, 1, 7, 60])
def test_e4m3_experts_of_the_kernel_are_those_of_torch(tokens: int, device: str) -> None:
    x, routing, up, down = drawn(tokens, 80, 48, device)
    into, inside = torch.tensor(0.01, device=device), torch.linspace(0.004, 0.02, COUNT, device=device)
    (up, up_scale), (down, down_scale) = in_fp8(up), in_fp8(down)
    terms = (quantise_fp8(x, into), routing, up, up_scale, into, down, down_scale, inside)
    expected = experts_fp8_ref(*terms, torch.float32, x)
    assert error(experts_fp8_kernel(*terms, torch.float32, x), expected) < E4M3_ERROR


@pytest.mark.parametrize("shared", [True, False])
def test_the_sum_is_that_of_torch(shared: bool, device: str) -> None:
    x, routing, *_ = drawn(7, 40, 8, device)
    place = by_expert(routing.experts, COUNT).place
    terms = torch.randn(7 * TOP_K, 40, device=device), place, routing.weights, x if shared else None
    assert error(weighted_sum_kernel(*terms), weighted_sum_ref(*terms)) < 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("tokens", [1, 33, 256, 1900])
@pytest.mark.parametrize("tile", [None, *{tile for _, tile in TILES}], ids=str)
def test_bf16_experts_of_the_models_size_err_at_most_twice_as_torch(tokens: int, tile: Tile | None) -> None:
    x, routing, up, down = drawn(tokens, 2688, 1856, "cuda", 16, 6)
    x, up, down = x.bfloat16(), up.bfloat16(), down.bfloat16()
    exact = experts_ref(x.float(), routing, up.float(), down.float())
    torch_error = error(experts_ref(x, routing, up, down), exact)
    pairs = by_expert(routing.experts, len(up))
    hidden = grouped_up(x, up, pairs, 6, tile=tile)
    out = grouped_down(hidden, down, pairs, x.dtype, tile=tile)
    assert error(weighted_sum_kernel(out, pairs.place, routing.weights), exact) < 2 * torch_error
