import pytest
import torch

from workers.engine.kernels.gated_norm import gated_norm
from workers.engine.kernels.rms_norm import add_rms_norm


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


def test_a_gated_norm_is_by_group_behind_the_gate() -> None:
    torch.manual_seed(0)
    x, gate, weight = torch.randn(4, 24), torch.randn(4, 24), torch.randn(24)
    got = gated_norm(x, gate, weight, groups=3, eps=1e-5)
    gated = x.double() * gate.double() * torch.sigmoid(gate.double())
    for group in range(3):
        part = slice(8 * group, 8 * group + 8)
        exact = weight[part] * gated[:, part] / (gated[:, part].square().mean(-1, keepdim=True) + 1e-5).sqrt()
        assert torch.allclose(got[:, part].double(), exact, atol=1e-5)
