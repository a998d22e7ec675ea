"""The chosen experts of every token with E4M3 weights and activations.

Activations going up are divided by one scale for the layer, going down by that of their expert; scales of weights are
one for each expert.

Source: spec 2.3, 8.2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.experts import by_expert, weighted_sum

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0


def experts_fp8(
    codes: Tensor,
    chosen: Tensor,
    weights: Tensor,
    up: Tensor,
    up_scale: Tensor,
    up_input_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    down_input_scale: Tensor,
    out_dtype: torch.dtype,
) -> Tensor:
    """Weighted sum over the chosen experts.

    Args:
        codes: [T, D] E4M3, divided by `up_input_scale`.
        chosen: [T, k] int64 experts.
        weights: [T, k] f32.
        up: [E, F, D] E4M3.
        down: [E, D, F] E4M3.
        up_scale, down_scale: [E, 1] f32.
        up_input_scale: [] f32.
        down_input_scale: [E] f32.

    Returns:
        [T, D] of `out_dtype`; added up in fp32.
    """
    op = _experts_fp8_grouped if codes.is_cuda and out_dtype == torch.bfloat16 else experts_fp8_ref
    return op(
        codes, chosen, weights, up, up_scale, up_input_scale, down, down_scale, down_input_scale, out_dtype
    )  # fmt: skip


def experts_fp8_ref(
    codes: Tensor,
    chosen: Tensor,
    weights: Tensor,
    up: Tensor,
    up_scale: Tensor,
    up_input_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    down_input_scale: Tensor,
    out_dtype: torch.dtype,
) -> Tensor:
    """Every expert sees every token; those that were not chosen weigh nothing. Products are rounded to `out_dtype`."""
    hidden = codes.float() @ up.float().transpose(1, 2) * (up_input_scale * up_scale)[:, None]  # [E, T, F]
    hidden = F.relu(hidden.to(out_dtype)).square()
    inner = _codes(hidden, down_input_scale[:, None, None])
    out = inner.float() @ down.float().transpose(1, 2) * (down_input_scale[:, None] * down_scale)[:, None]
    share = torch.zeros(len(codes), len(up), device=codes.device).scatter(1, chosen, weights)
    return torch.einsum("etd,te->td", out.to(out_dtype).float(), share).to(out_dtype)


def _experts_fp8_grouped(
    codes: Tensor,
    chosen: Tensor,
    weights: Tensor,
    up: Tensor,
    up_scale: Tensor,
    up_input_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    down_input_scale: Tensor,
    out_dtype: torch.dtype,
) -> Tensor:
    pairs = by_expert(chosen, len(up))
    rows = len(pairs.token)
    hidden = _grouped(codes[pairs.token], up, up_input_scale.expand(rows), up_scale, pairs.ends, out_dtype)
    row_scale = down_input_scale[pairs.expert]
    inner = _codes(F.relu(hidden).square(), row_scale[:, None])
    out = _grouped(inner, down, row_scale, down_scale, pairs.ends, out_dtype)
    return weighted_sum(out, pairs, weights).to(out_dtype)


def _grouped(
    rows: Tensor, weight: Tensor, row_scale: Tensor, scale: Tensor, ends: Tensor, out_dtype: torch.dtype
) -> Tensor:
    per_output = scale.expand(weight.shape[:2]).contiguous()
    return torch._scaled_grouped_mm(  # pyright: ignore[reportPrivateImportUsage]
        rows, weight.transpose(1, 2), row_scale.contiguous(), per_output, offs=ends, out_dtype=out_dtype
    )


def _codes(x: Tensor, scale: Tensor) -> Tensor:
    return (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)
