"""RMSNorm of a sum: what a block does first. Returns everything that is read after it, in one launch.

Source: spec 2.1; the weight is multiplied before the cast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from workers.engine.kernels.jit import jit, kernels_run, tl, triton
from workers.engine.kernels.quantise import E4M3, e4m3, quantise_ref

WIDEST = 8192  # a row lies in the registers of one program
MOST_CODES = 2


class Normed(NamedTuple):
    """
    Attributes:
        residual: [T, D] the sum, rounded to the dtype of the stream.
        value: [T, D] the sum normalised, same dtype; [0, D] where it was not asked for.
        codes: [T, D] E4M3 of value / scale, one for each scale asked for.
    """

    residual: Tensor
    value: Tensor
    codes: tuple[Tensor, ...] = ()


def add_rms_norm(
    residual: Tensor,
    delta: Tensor | None,
    weight: Tensor,
    eps: float,
    scales: tuple[Tensor, ...] = (),
    *,
    rows: Tensor | None = None,
    value: bool = True,
) -> Normed:
    """Adds, normalises, quantises.

    Args:
        residual: [T, D].
        delta: [T, D] what the last block added; None in front of the first.
        weight: [D].
        scales: [] f32 each.
        rows: [R] int64, the rows of `residual` and `delta` that are wanted; everything returned is [R, D].
        value: whether the value is read, and not the codes alone.
    """
    run = add_rms_norm_kernel if _fits(residual, delta, weight, scales) else add_rms_norm_ref
    return run(residual, delta, weight, eps, scales, rows=rows, value=value)


def add_rms_norm_ref(
    residual: Tensor,
    delta: Tensor | None,
    weight: Tensor,
    eps: float,
    scales: tuple[Tensor, ...] = (),
    *,
    rows: Tensor | None = None,
    value: bool = True,
) -> Normed:
    if rows is not None:
        residual, delta = residual[rows], None if delta is None else delta[rows]
    if delta is not None:
        residual = residual + delta
    wide = residual.float()
    wide = weight.float() * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps))
    # Codes come from the rounded value: the same numbers as when the linear layer quantises it itself.
    rounded = wide.to(residual.dtype)
    codes = tuple(quantise_ref(rounded, scale) for scale in scales)
    return Normed(residual, rounded if value else rounded[:0], codes)


def add_rms_norm_kernel(
    residual: Tensor,
    delta: Tensor | None,
    weight: Tensor,
    eps: float,
    scales: tuple[Tensor, ...] = (),
    *,
    rows: Tensor | None = None,
    value: bool = True,
    warps: int = 4,
) -> Normed:
    count, width = len(residual) if rows is None else len(rows), residual.shape[1]
    # Nothing added and nothing gathered: the stream goes on as it is.
    total = residual if delta is None and rows is None else residual.new_empty(count, width)
    normed = residual.new_empty(count if value else 0, width)
    codes = tuple(torch.empty(count, width, dtype=E4M3, device=residual.device) for _ in scales)
    unused = MOST_CODES - len(codes)
    if count:
        _add_rms_norm[(count,)](
            residual, delta, weight, rows, *scales, *[None] * unused, total, normed, *codes, *[None] * unused,
            residual.stride(0), 0 if delta is None else delta.stride(0), eps,
            width=width, block=triton.next_power_of_2(width), adds=delta is not None, gathers=rows is not None,
            value=value, scales=len(scales), num_warps=warps,
        )  # fmt: skip
    return Normed(total, normed, codes)


def _fits(residual: Tensor, delta: Tensor | None, weight: Tensor, scales: tuple[Tensor, ...]) -> bool:
    dtypes = {residual.dtype, weight.dtype} | ({delta.dtype} if delta is not None else set())
    dense = residual.stride(1) == 1 and weight.is_contiguous() and (delta is None or delta.stride(1) == 1)
    small = residual.shape[1] <= WIDEST and len(scales) <= MOST_CODES
    return kernels_run(residual) and dtypes == {torch.bfloat16} and dense and small


@jit
def _add_rms_norm(
    residual, delta, weight, rows, scale_0, scale_1, total, normed, codes_0, codes_1,
    residual_stride, delta_stride, eps,
    width: tl.constexpr, block: tl.constexpr, adds: tl.constexpr, gathers: tl.constexpr,
    value: tl.constexpr, scales: tl.constexpr,
):  # fmt: skip
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    inside = at < width
    source = tl.load(rows + row) if gathers else row
    x = tl.load(residual + source * residual_stride + at, inside, other=0.0)
    gain = tl.load(weight + at, inside, other=0.0).to(tl.float32)
    out = row * width + at
    if adds:
        added = tl.load(delta + source * delta_stride + at, inside, other=0.0)
        x = (x.to(tl.float32) + added.to(tl.float32)).to(x.dtype)
    if adds or gathers:
        tl.store(total + out, x, inside)
    wide = x.to(tl.float32)
    rounded = (gain * (wide * tl.rsqrt(tl.sum(wide * wide, 0) / width + eps))).to(x.dtype)
    if value:
        tl.store(normed + out, rounded, inside)
    if scales > 0:
        tl.store(codes_0 + out, e4m3(rounded, tl.load(scale_0)), inside)
    if scales > 1:
        tl.store(codes_1 + out, e4m3(rounded, tl.load(scale_1)), inside)
