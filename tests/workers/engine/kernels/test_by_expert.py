import pytest
import torch

from tests.workers.engine.kernels.launched import needs_triton
from workers.engine.kernels.by_expert import by_expert, by_expert_kernel, by_expert_ref

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # Triton's interpreter


def test_an_expert_that_nobody_chose_is_empty_in_the_sort() -> None:
    pairs = by_expert(torch.tensor([[3, 0], [3, 1]]), 5)
    assert pairs.ends.tolist() == [1, 2, 2, 4, 4]
    assert pairs.order.tolist() == [1, 3, 0, 2]
    assert pairs.place.tolist() == [2, 0, 3, 1]


@needs_triton
@pytest.mark.parametrize("tokens", [0, 1, 7, 400, 1500])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=["i32", "i64"])
def test_the_kernel_sorts_as_torch_does(tokens: int, dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(tokens)
    chosen = torch.rand(tokens, 9).topk(3).indices.to(device, dtype)
    for got, expected in zip(by_expert_kernel(chosen, 11), by_expert_ref(chosen, 11), strict=True):
        assert torch.equal(got, expected)
