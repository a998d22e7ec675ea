"""The activation inside an expert: relu, squared, and E4M3 where the weight behind it reads codes.

Source: spec 2.3, 8.2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.jit import jit, kernels_run, tl, triton

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0


def squared_relu(x: Tensor, scale: Tensor | None = None, ends: Tensor | None = None) -> Tensor:
    """[R, F] of the dtype of x, or E4M3 divided by the scale and saturated.

    Args:
        x: [R, F].
        scale: [] f32, or [E] f32 with the rows in the order of the experts.
        ends: [E] int32, the row behind the last one of an expert.
    """
    kernel = kernels_run(x) and x.dtype == torch.bfloat16
    return (squared_relu_kernel if kernel else squared_relu_ref)(x, scale, ends)


def squared_relu_ref(x: Tensor, scale: Tensor | None = None, ends: Tensor | None = None) -> Tensor:
    y = F.relu(x).square()
    if scale is None:
        return y
    if ends is not None:
        row = torch.arange(len(x), device=x.device, dtype=ends.dtype)
        scale = scale[torch.searchsorted(ends, row, right=True)][:, None]
    return (y.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)


def squared_relu_kernel(x: Tensor, scale: Tensor | None = None, ends: Tensor | None = None) -> Tensor:
    rows, width = x.shape
    out = torch.empty_like(x, dtype=x.dtype if scale is None else E4M3)
    if rows:
        _squared_relu[(rows, triton.cdiv(width, 2048))](
            x, out, out if scale is None else scale, out if ends is None else ends,
            WIDTH=width, CODES=scale is not None, EXPERTS=0 if ends is None else len(ends),
            PADDED=0 if ends is None else triton.next_power_of_2(len(ends)), BLOCK=2048, num_warps=4,
        )  # fmt: skip
    return out


@jit
def _squared_relu(
    x, out, scale, ends,
    WIDTH: tl.constexpr, CODES: tl.constexpr, EXPERTS: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = row * WIDTH + column
    y = tl.maximum(tl.load(x + at, mask=column < WIDTH, other=0.0).to(tl.float32), 0.0)
    y *= y
    if CODES:
        if EXPERTS > 0:
            each = tl.arange(0, PADDED)
            passed = tl.load(ends + each, mask=each < EXPERTS, other=2147483647) <= row
            scale += tl.sum(passed.to(tl.int32), 0)
        y = tl.minimum(y / tl.load(scale), 448.0)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=column < WIDTH)
