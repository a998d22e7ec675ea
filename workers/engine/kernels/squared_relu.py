"""relu(x)^2 between two linear layers, and E4M3 of it where the second one reads that.

Source: spec 2.3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.jit import jit, kernels_run, tl, triton
from workers.engine.kernels.quantise import E4M3, E4M3_MAX, e4m3

WIDEST = 16384  # a row lies in the registers of one program


def squared_relu(x: Tensor, scale: Tensor | None = None) -> Tensor:
    """
    Args:
        x: [T, F].
        scale: [] f32.

    Returns:
        [T, F] of x's dtype; with a scale E4M3 of that value / scale.
    """
    fits = kernels_run(x) and x.dtype == torch.bfloat16 and x.is_contiguous() and x.shape[1] <= WIDEST
    return (squared_relu_kernel if fits else squared_relu_ref)(x, scale)


def squared_relu_ref(x: Tensor, scale: Tensor | None = None) -> Tensor:
    value = F.relu(x).square()
    if scale is None:
        return value
    return (value.float() / scale).clamp(max=E4M3_MAX).to(E4M3)


def squared_relu_kernel(x: Tensor, scale: Tensor | None = None, *, warps: int = 4) -> Tensor:
    out = torch.empty_like(x, dtype=x.dtype if scale is None else E4M3)
    count, width = x.shape
    if count:
        block = triton.next_power_of_2(width)
        _squared_relu[(count,)](x, scale, out, width=width, block=block, quantises=scale is not None, num_warps=warps)
    return out


@jit
def _squared_relu(x, scale, out, width: tl.constexpr, block: tl.constexpr, quantises: tl.constexpr):
    """One row."""
    at = tl.arange(0, block)
    inside, row = at < width, tl.program_id(0).to(tl.int64) * width
    wide = tl.load(x + row + at, inside, other=0.0).to(tl.float32)
    wide = tl.where(wide < 0, 0.0, wide)  # NaN stays
    value = (wide * wide).to(x.dtype.element_ty)
    tl.store(out + row + at, e4m3(value, tl.load(scale)) if quantises else value, inside)
