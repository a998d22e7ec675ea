"""What ends a Mamba-2 mixer: a silu gate, then RMS over each group of channels.

Source: spec 2.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.jit import jit, kernels_run, tl, triton
from workers.engine.kernels.quantise import E4M3, e4m3, quantise_ref


class Tile(NamedTuple):
    """What one program does: so many groups of channels, of one row or of several, with so many warps."""

    groups: int
    warps: int


TILE = Tile(4, 4)


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float, scale: Tensor | None = None) -> Tensor:
    """Gate first, then normalise, then quantise if there is something to quantise with.

    Args:
        x: [T, H P].
        gate: [T, H P] before its silu.
        weight: [H P].
        scale: [] f32.

    Returns:
        [T, H P] of the dtype of `gate`; E4M3 of that over `scale` if there is one.
    """
    op = gated_norm_kernel if _fits(gate, groups) else gated_norm_ref
    return op(x, gate, weight, groups, eps, scale)


def gated_norm_ref(
    x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float, scale: Tensor | None = None
) -> Tensor:
    gated = (x.float() * F.silu(gate.float())).unflatten(-1, (groups, -1))
    normed = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + eps)
    value = (weight.float() * normed.flatten(-2)).to(gate.dtype)
    # Codes come from the rounded value: the same numbers as when the linear layer quantises it itself.
    return value if scale is None else quantise_ref(value, scale)


def gated_norm_kernel(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    groups: int,
    eps: float,
    scale: Tensor | None = None,
    *,
    tile: Tile = TILE,
) -> Tensor:
    """A group is a power of two; rows of x and gate may lie apart."""
    tokens, channels = gate.shape
    out = torch.empty(tokens, channels, dtype=gate.dtype if scale is None else E4M3, device=gate.device)
    if tokens:
        _gated_norm[(triton.cdiv(tokens * groups, tile.groups),)](
            x, gate, weight, out, scale, x.stride(0), gate.stride(0), tokens, eps,
            GROUPS=groups, GROUP=channels // groups, BLOCK=tile.groups, num_warps=tile.warps,
        )  # fmt: skip
    return out


def _fits(gate: Tensor, groups: int) -> bool:
    size = gate.shape[1] // groups
    return kernels_run(gate) and gate.dtype == torch.bfloat16 and size & (size - 1) == 0


@jit(do_not_specialize=["tokens"])
def _gated_norm(
    x,
    gate,
    weight,
    out,
    scale,
    x_stride,
    gate_stride,
    tokens,
    eps,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK groups, counted row by row."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, inside = (at // GROUPS).to(tl.int64)[:, None], (at < tokens * GROUPS)[:, None]
    channel = (at % GROUPS * GROUP)[:, None] + tl.arange(0, GROUP)[None, :]
    z = tl.load(gate + row * gate_stride + channel, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(x + row * x_stride + channel, mask=inside, other=0.0).to(tl.float32)
    value *= z / (1.0 + tl.exp2(z * -1.4426950408889634))
    value *= tl.rsqrt(tl.sum(value * value, 1) / GROUP + eps)[:, None]
    value *= tl.load(weight + channel).to(tl.float32)
    value = value.to(gate.dtype.element_ty)
    if scale is not None:
        value = e4m3(value, tl.load(scale))
    tl.store(out + row * (GROUPS * GROUP) + channel, value.to(out.dtype.element_ty), mask=inside)
