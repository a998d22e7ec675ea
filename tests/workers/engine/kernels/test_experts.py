import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.checkpoint.formats import (
    dequantise_fp8,
    dequantise_nvfp4,
    fp8_scale,
    quantise_fp8,
    quantise_nvfp4,
    unpack_e2m1,
)
from workers.engine.kernels.experts import experts, experts_ref
from workers.engine.kernels.experts_fp8 import experts_fp8
from workers.engine.kernels.experts_nvfp4 import (
    dequantised_kernel,
    dequantised_ref,
    experts_nvfp4,
    experts_nvfp4_kernel,
    halves,
    in_fourths,
    repacked,
)
from workers.engine.kernels.jit import HAVE_TRITON
from workers.engine.kernels.route import Routing, route

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # Triton's interpreter

TOKENS, WIDTH, INNER, COUNT, CHOSEN = 7, 16, 24, 5, 2


def drawn(tokens: int = TOKENS) -> tuple[Tensor, Routing, Tensor, Tensor]:
    torch.manual_seed(0)
    chosen = torch.rand(tokens, COUNT).topk(CHOSEN).indices
    up, down = torch.randn(COUNT, INNER, WIDTH) / 4, torch.randn(COUNT, WIDTH, INNER) / 5
    return torch.randn(tokens, WIDTH), Routing(chosen, torch.rand(tokens, CHOSEN)), up, down


def one_by_one(x: Tensor, routing: Routing, up: Tensor, down: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for token in range(len(x)):
        for expert, weight in zip(*(part[token] for part in routing), strict=True):
            out[token] += weight * (down[expert] @ F.relu(up[expert] @ x[token]).square())
    return out


@pytest.mark.parametrize("tokens", [0, 1, TOKENS])
def test_chosen_experts_are_summed_with_their_weights(tokens: int) -> None:
    terms = drawn(tokens)
    assert torch.allclose(experts_ref(*terms), one_by_one(*terms), atol=1e-4)
    shared = torch.randn(tokens, WIDTH)
    assert torch.allclose(experts(*terms, shared), one_by_one(*terms) + shared, atol=1e-4)


def test_e4m3_experts_take_the_scales_of_their_layer_and_their_own() -> None:
    x, routing, up, down = drawn()
    scales = [torch.stack([fp8_scale(one) for one in stack])[:, None] for stack in (up, down)]
    codes = [quantise_fp8(stack, scale[..., None]) for stack, scale in zip((up, down), scales, strict=True)]
    into, inside = torch.tensor(0.01), torch.linspace(0.02, 0.2, COUNT)
    x_codes = quantise_fp8(x, into)
    got = experts_fp8(x_codes, routing, codes[0], scales[0], into, codes[1], scales[1], inside, torch.float32)

    whole_up, whole_down = (dequantise_fp8(code, scale) for code, scale in zip(codes, scales, strict=True))
    expected = torch.zeros_like(x)
    for token in range(TOKENS):
        for expert, weight in zip(*(part[token] for part in routing), strict=True):
            hidden = F.relu(whole_up[expert] @ (x_codes[token].float() * into)).square()
            rounded = quantise_fp8(hidden, inside[expert]).float() * inside[expert]
            expected[token] += weight * (whole_down[expert] @ rounded)
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert (got - one_by_one(x, routing, up, down)).norm() < 0.15 * got.norm()


def test_every_code_of_nvfp4_is_its_number() -> None:
    packed = torch.arange(256).to(torch.uint8)
    assert torch.equal(halves(packed) / 2, unpack_e2m1(packed))


@pytest.mark.parametrize("at_once", [2, 16])
def test_nvfp4_experts_are_those_of_their_numbers(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engine.kernels.experts_nvfp4.AT_ONCE", at_once)
    torch.manual_seed(0)
    up, down = torch.randn(COUNT, 2 * INNER - 16, WIDTH) / 4, torch.randn(COUNT, WIDTH, 2 * INNER - 16) / 5
    stacks = [[torch.stack(part) for part in zip(*map(quantise_nvfp4, stack), strict=True)] for stack in (up, down)]
    x, routing, *_ = drawn()
    got = experts_nvfp4(x, routing, *stacks[0], *stacks[1])
    whole = [dequantise_nvfp4(*stack) for stack in stacks]
    assert torch.allclose(got, one_by_one(x, routing, *whole), atol=1e-4)


def test_the_bias_moves_the_choice_and_not_the_weights() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(6, WIDTH), torch.randn(COUNT, WIDTH), torch.tensor([0.0, 9.0, 0.0, -9.0, 0.0])
    got = route(x, weight, bias, top_k=2, scale=2.5, normalise=True)
    scores = (x @ weight.t()).sigmoid()
    assert (got.experts == 1).any(1).all()
    assert not (got.experts == 3).any()
    own = scores.gather(1, got.experts)
    assert torch.allclose(got.weights, 2.5 * own / own.sum(-1, keepdim=True), atol=1e-6)
    plain = route(x, weight, bias, top_k=2, scale=2.0, normalise=False)
    assert torch.allclose(plain.weights, 2.0 * scores.gather(1, plain.experts), atol=1e-6)


def test_a_router_in_bf16_chooses_as_in_fp32() -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(512, 256) / 16).bfloat16(), torch.randn(32, 256).bfloat16()
    exact = (x.double() @ weight.double().t()).topk(6).indices.sort().values
    chosen = route(x, weight, torch.zeros(32), top_k=6, scale=1.0, normalise=True).experts.sort().values
    assert torch.equal(chosen, exact)
    rounded = (x @ weight.t()).float().topk(6).indices.sort().values
    assert not torch.equal(rounded, exact)  # what a router whose logits pass through bf16 would do


def in_nvfp4(experts: int, out: int, width: int, device: str) -> list[Tensor]:
    stack = torch.randn(experts, out, width) / width**0.5
    return [torch.stack(part).to(device) for part in zip(*map(quantise_nvfp4, stack), strict=True)]


@pytest.mark.skipif(not HAVE_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize("layout", ["row-major", "repacked"])
def test_the_kernel_turns_codes_into_the_numbers_of_torch(layout: str, device: str) -> None:
    torch.manual_seed(0)
    packed, block_scale, scale = in_nvfp4(3, 5, 192, device)
    laid_out = repacked(block_scale) if layout == "repacked" else block_scale
    expected = dequantised_ref(packed, block_scale, scale, torch.float32)
    assert torch.equal(dequantised_ref(packed, laid_out, scale, torch.float32), expected)
    assert torch.allclose(dequantised_kernel(packed, laid_out, scale, torch.float32), expected, rtol=1e-6)


def test_fourths_are_every_fourth_column_of_a_half_word() -> None:
    assert in_fourths(torch.arange(16)[None]).tolist() == [[0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layout", ["row-major", "repacked"])
@pytest.mark.parametrize("tokens", [1, 33, 256, 700])
def test_nvfp4_experts_of_the_models_size_err_at_most_twice_as_torch(tokens: int, layout: str) -> None:
    torch.manual_seed(tokens)
    up, down = in_nvfp4(16, 1856, 2688, "cuda"), in_nvfp4(16, 2688, 1856, "cuda")
    x = torch.randn(tokens, 2688, device="cuda").bfloat16()
    chosen = torch.rand(tokens, 16, device="cuda").topk(6).indices.int()
    routing = Routing(chosen, torch.rand(tokens, 6, device="cuda"))
    exact = experts_ref(x.float(), routing, *(dequantised_ref(*stack, torch.float32) for stack in (up, down)))
    theirs = experts_ref(x, routing, *(dequantised_ref(*stack, torch.bfloat16) for stack in (up, down)))
    if layout == "repacked":
        up[1], down[1] = repacked(up[1]), repacked(down[1])
    got = experts_nvfp4_kernel(x, routing, *up, *down)
    assert (got - exact).norm() < 2 * (theirs - exact).norm()
