import pytest
import torch

from tests.workers.engine.kernels.launched import launched, same_codes
from workers.engine.kernels import jit
from workers.engine.kernels.quantise import quantise_kernel, quantise_ref


@launched
@pytest.mark.parametrize("shape", [(0, 8), (1, 7), (3, 2048), (5, 1000)], ids=str)
def test_the_kernel_gives_the_codes_of_torch(shape: tuple[int, int], device: str) -> None:
    torch.manual_seed(0)
    # Triton's interpreter cuts bf16 off where a GPU rounds.
    x = (100 * torch.randn(shape, device=device)).to(torch.float16 if jit.INTERPRETED else torch.bfloat16)
    scale = torch.tensor(0.37, device=device)
    assert same_codes(quantise_kernel(x, scale), quantise_ref(x, scale))
