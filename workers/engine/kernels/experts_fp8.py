"""The chosen experts of every token with E4M3 weights and activations.

Activations going up are divided by one scale for the layer, going down by that of their expert; scales of weights are
one for each expert.

Source: spec 2.3, 8.2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.by_expert import by_expert
from workers.engine.kernels.experts import share
from workers.engine.kernels.grouped_mm import grouped_down, grouped_up
from workers.engine.kernels.jit import kernels_run
from workers.engine.kernels.quantise import E4M3, E4M3_MAX
from workers.engine.kernels.route import Routing
from workers.engine.kernels.weighted_sum import weighted_sum


def experts_fp8(
    codes: Tensor,
    routing: Routing,
    up: Tensor,
    up_scale: Tensor,
    up_input_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    down_input_scale: Tensor,
    out_dtype: torch.dtype,
    shared: Tensor | None = None,
) -> Tensor:
    """Weighted sum over the chosen experts.

    Args:
        codes: [T, D] E4M3, divided by `up_input_scale`.
        routing: [T, k] experts and their weights.
        up: [E, F, D] E4M3.
        down: [E, D, F] E4M3.
        up_scale, down_scale: [E, 1] f32.
        up_input_scale: [] f32.
        down_input_scale: [E] f32.
        shared: [T, D] of `out_dtype`, added to the sum.

    Returns:
        [T, D] of `out_dtype`; added up in fp32.
    """
    kernel = kernels_run(codes) and out_dtype == torch.bfloat16
    op = experts_fp8_kernel if kernel else experts_fp8_ref
    return op(
        codes, routing, up, up_scale, up_input_scale, down, down_scale, down_input_scale, out_dtype, shared
    )  # fmt: skip


def experts_fp8_ref(
    codes: Tensor,
    routing: Routing,
    up: Tensor,
    up_scale: Tensor,
    up_input_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    down_input_scale: Tensor,
    out_dtype: torch.dtype,
    shared: Tensor | None = None,
) -> Tensor:
    """Every expert sees every token; those that were not chosen weigh nothing. Products are rounded to `out_dtype`."""
    hidden = codes.float() @ up.float().transpose(1, 2) * (up_input_scale * up_scale)[:, None]  # [E, T, F]
    hidden = F.relu(hidden.to(out_dtype)).square()
    inner = (hidden.float() / down_input_scale[:, None, None]).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)
    out = inner.float() @ down.float().transpose(1, 2) * (down_input_scale[:, None] * down_scale)[:, None]
    return share(out.to(out_dtype), routing, shared).to(out_dtype)


def experts_fp8_kernel(
    codes: Tensor,
    routing: Routing,
    up: Tensor,
    up_scale: Tensor,
    up_input_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    down_input_scale: Tensor,
    out_dtype: torch.dtype,
    shared: Tensor | None = None,
) -> Tensor:
    """What is inside an expert is squared and divided in fp32, before it is rounded once."""
    pairs = by_expert(routing.experts, len(up))
    inner = grouped_up(
        codes, up, pairs, routing.experts.shape[1], up_scale, up_input_scale, down_input_scale
    )  # fmt: skip
    out = grouped_down(inner, down, pairs, out_dtype, down_scale, down_input_scale)
    return weighted_sum(out, pairs.place, routing.weights, shared)
