import pytest
import torch

from tests.workers.engine.kernels.launched import GPU, launched, same_codes
from workers.engine.checkpoint.formats import quantise_fp8
from workers.engine.kernels.squared_relu import squared_relu, squared_relu_kernel, squared_relu_ref


def test_codes_are_those_of_the_value_quantised_behind_it() -> None:
    x, scale = 3 * torch.randn(7, 20), torch.tensor(0.01)
    value = squared_relu(x)
    assert torch.equal(value, torch.relu(x) * torch.relu(x))
    assert torch.equal(squared_relu(x, scale).float(), quantise_fp8(value, scale).float())


CASES = [
    *[pytest.param(rows, 58, torch.float16, id=f"T{rows}-F58-f16") for rows in (0, 1, 5)],
    *[pytest.param(rows, 3712, torch.bfloat16, id=f"T{rows}-F3712-bf16", marks=GPU) for rows in (1, 33, 16384)],
]


@launched
@pytest.mark.parametrize("codes", [True, False], ids=["codes", "value"])
@pytest.mark.parametrize(("rows", "width", "dtype"), CASES)
def test_the_kernel_is_the_reference(rows: int, width: int, dtype: torch.dtype, codes: bool, device: str) -> None:
    x = 4 * torch.randn(rows, width, device=device, generator=torch.Generator(device).manual_seed(0)).to(dtype)
    if rows:
        x[0, 3] = torch.nan
    scale = torch.tensor(0.031, device=device) if codes else None
    ours, theirs = squared_relu_kernel(x, scale), squared_relu_ref(x, scale)
    if codes:
        assert same_codes(ours, theirs)
    else:
        assert torch.equal(ours.nan_to_num(-1), theirs.nan_to_num(-1))
