import pytest
import torch
from torch import Tensor

from tests.workers.engine.kernels.launched import GPU, launched, same_codes
from workers.engine.kernels.gated_norm import gated_norm
from workers.engine.kernels.rms_norm import add_rms_norm, add_rms_norm_kernel, add_rms_norm_ref


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sum_is_rounded_then_normalised(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    residual, delta, weight = (torch.randn(size).to(dtype) for size in ((5, 96), (5, 96), (96,)))
    normed = add_rms_norm(residual, delta, weight, 1e-5)
    total = (residual + delta).double()
    exact = weight.double() * total / (total.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.equal(normed.residual, residual + delta)
    assert normed.value.dtype == dtype
    assert (normed.value - exact).abs().max() <= (2e-6 if dtype == torch.float32 else exact.abs().max() * 2**-8)


def test_codes_are_the_value_over_each_scale_and_saturate() -> None:
    x, scales = 100 * torch.randn(3, 16), (torch.tensor(0.5), torch.tensor(0.001))
    normed = add_rms_norm(x, None, torch.ones(16), 1e-5, scales)
    assert len(normed.codes) == 2
    for codes, scale in zip(normed.codes, scales, strict=True):
        assert codes.dtype == torch.float8_e4m3fn
        exact = (normed.value / scale).clamp(-448, 448)
        assert torch.allclose(codes.float(), exact, rtol=0.07, atol=2**-9)
    assert normed.codes[1].float().abs().max() == 448


@pytest.mark.parametrize("value", [True, False])
def test_rows_are_those_asked_for_and_no_value_costs_nothing(value: bool) -> None:
    torch.manual_seed(0)
    residual, delta, weight = torch.randn(5, 16), torch.randn(5, 16), torch.randn(16)
    scales, rows = (torch.tensor(0.1),), torch.tensor([4, 1, 1])
    some = add_rms_norm(residual, delta, weight, 1e-5, scales, rows=rows, value=value)
    whole = add_rms_norm(residual, delta, weight, 1e-5, scales)
    assert torch.equal(some.residual, whole.residual[rows])
    assert torch.equal(some.value, whole.value[rows] if value else torch.empty(0, 16))
    assert torch.equal(some.codes[0].float(), whole.codes[0].float()[rows])


# What the interpreter rounds to bf16 it cuts off; so half precision stands for it there.
CASES = [
    pytest.param(5, 96, torch.float16, id="T5-D96-f16"),
    pytest.param(1, 2688, torch.float16, id="T1-D2688-f16"),
    pytest.param(0, 96, torch.float16, id="T0-D96-f16"),
    *[
        pytest.param(rows, 2688, torch.bfloat16, id=f"T{rows}-D2688-bf16", marks=GPU)
        for rows in (1, 33, 256, 4097, 16384)
    ],
]


@launched
@pytest.mark.parametrize("scales", [0, 1, 2])
@pytest.mark.parametrize("adds", [True, False], ids=["sum", "alone"])
@pytest.mark.parametrize("gathers", [True, False], ids=["rows", "all"])
@pytest.mark.parametrize(("rows", "width", "dtype"), CASES)
def test_the_kernel_is_the_reference(
    rows: int, width: int, dtype: torch.dtype, gathers: bool, adds: bool, scales: int, device: str
) -> None:
    torch.manual_seed(rows)
    sizes = ((rows, width), (rows, width), (width,))
    residual, delta, weight = (torch.randn(size, device=device).to(dtype) for size in sizes)
    chosen = torch.randint(rows, (rows // 2 + 1,), device=device) if gathers and rows else None
    several = (torch.tensor(0.02, device=device), torch.tensor(0.0017, device=device))[:scales]
    args = residual, delta if adds else None, weight, 1e-5, several
    ours, theirs = (one(*args, rows=chosen) for one in (add_rms_norm_kernel, add_rms_norm_ref))
    assert torch.equal(ours.residual, theirs.residual)
    exact = normalised(ours.residual, weight)
    assert error(ours.value, exact) <= 2 * error(theirs.value, exact)
    for codes, scale in zip(ours.codes, several, strict=True):
        # Codes of the kernel's own value: every one as torch would give it.
        assert same_codes(codes, (ours.value.float() / scale).clamp(-448, 448).to(codes.dtype))
    bare = add_rms_norm_kernel(*args, rows=chosen, value=False)
    assert bare.value.shape == (0, width)
    assert all(map(same_codes, bare.codes, ours.codes))


def normalised(total: Tensor, weight: Tensor) -> Tensor:
    wide = total.double()
    return weight.double() * wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm())


def test_a_gated_norm_is_by_group_behind_the_gate() -> None:
    torch.manual_seed(0)
    x, gate, weight = torch.randn(4, 24), torch.randn(4, 24), torch.randn(24)
    got = gated_norm(x, gate, weight, groups=3, eps=1e-5)
    gated = x.double() * gate.double() * torch.sigmoid(gate.double())
    for group in range(3):
        part = slice(8 * group, 8 * group + 8)
        exact = weight[part] * gated[:, part] / (gated[:, part].square().mean(-1, keepdim=True) + 1e-5).sqrt()
        assert torch.allclose(got[:, part].double(), exact, atol=1e-5)
