import pytest
import torch
from torch import Tensor

from tests.workers.engine.kernels.launched import needs_triton
from workers.engine.kernels.route import choose_kernel, choose_ref, route, route_kernel, scores_kernel

pytestmark = [
    needs_triton,
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # Triton's interpreter
]


def sorted_by_expert(experts: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    ordered = experts.long().sort()
    return ordered.values, weights.gather(1, ordered.indices)


@pytest.mark.parametrize("tokens", [0, 1, 7, 33])
@pytest.mark.parametrize("normalise", [True, False])
def test_the_kernel_chooses_as_torch_does(tokens: int, normalise: bool, device: str) -> None:
    torch.manual_seed(tokens)
    parts, bias = torch.randn(3, tokens, 64, device=device), torch.randn(64, device=device) / 9
    terms = {"top_k": 6, "scale": 2.5, "normalise": normalise}
    got = sorted_by_expert(*choose_kernel(parts, bias, **terms))
    expected = sorted_by_expert(*choose_ref(parts.sum(0), bias, **terms))
    assert torch.equal(got[0], expected[0])
    assert torch.allclose(got[1], expected[1], atol=1e-6)


def test_of_equal_scores_the_first_expert_is_chosen_and_no_number_is_no_address(device: str) -> None:
    parts = torch.zeros(1, 3, 64, device=device)
    parts[0, 1] = torch.nan
    routing = choose_kernel(parts, torch.zeros(64, device=device), top_k=3, scale=1.0, normalise=True)
    assert routing.experts[0].tolist() == [0, 1, 2]
    assert ((routing.experts >= 0) & (routing.experts < 64)).all()


@pytest.mark.parametrize("tokens", [1, 7, 130])
def test_parts_of_the_scores_add_up(tokens: int, device: str) -> None:
    """Interpreted in fp16, for the interpreter multiplies bf16 as whole numbers."""
    torch.manual_seed(0)
    x, weight = (torch.randn(rows, 640, device=device).half() for rows in (tokens, 64))
    got = scores_kernel(x, weight)
    assert len(got) > 1
    assert torch.allclose(got.sum(0), x.float() @ weight.float().t(), atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("tokens", [1, 31, 256, 1025, 5000])
def test_a_router_of_the_models_size_chooses_as_in_fp64(tokens: int) -> None:
    torch.manual_seed(tokens)
    x = torch.randn(tokens, 2688, device="cuda").bfloat16()
    weight = (torch.randn(128, 2688, device="cuda") / 52).bfloat16()
    bias = torch.randn(128, device="cuda") / 50
    terms = {"top_k": 6, "scale": 2.5, "normalise": True}
    got = route(x, weight, bias, **terms)
    assert torch.equal(got.experts, route_kernel(x, weight, bias, **terms).experts)
    scores = (x.double() @ weight.double().t()).sigmoid()
    choice = scores + bias
    least = choice.gather(1, got.experts.long()).amin(1)
    left = choice.scatter(1, got.experts.long(), -torch.inf).amax(1)
    assert (least > left - 1e-5).all()
    exact = scores.gather(1, got.experts.long())
    exact = 2.5 * exact / exact.sum(1, keepdim=True)
    assert (got.weights - exact).abs().max() < 1e-5
