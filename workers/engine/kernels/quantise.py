"""Activations as E4M3 codes where no kernel in front gives them.

Source: spec 8.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.kernels.jit import jit, kernels_run, tl, triton

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
BLOCK = 2048


def quantise(x: Tensor, scale: Tensor) -> Tensor:
    """E4M3 of x / scale, saturated.

    Args:
        x: [..., D].
        scale: [] f32.
    """
    fits = kernels_run(x) and x.dtype == torch.bfloat16 and x.is_contiguous()
    return (quantise_kernel if fits else quantise_ref)(x, scale)


def quantise_ref(x: Tensor, scale: Tensor) -> Tensor:
    return (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)


def quantise_kernel(x: Tensor, scale: Tensor) -> Tensor:
    out = torch.empty_like(x, dtype=E4M3)
    if count := x.numel():
        _quantise[(triton.cdiv(count, BLOCK),)](x, scale, out, count, BLOCK=BLOCK, num_warps=4)
    return out


@jit(do_not_specialize=["count"])
def _quantise(x, scale, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    tl.store(out + at, e4m3(tl.load(x + at, inside, other=0.0), tl.load(scale)), inside)


@jit
def e4m3(x, scale):
    """E4M3 of x / scale; what is too large saturates, NaN stays."""
    # The quotient to the last bit (Markstein) without a division of each number; infinity is kept out of it.
    wide, inverse = x.to(tl.float32), tl.div_rn(1.0, scale)
    ratio = tl.clamp(wide * inverse, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
    ratio = tl.fma(tl.fma(-ratio, scale, wide), inverse, ratio)
    return tl.clamp(ratio, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL).to(tl.float8e4nv)
