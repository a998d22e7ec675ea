"""The chosen experts of every token with NVFP4 weights, activations as they come.

Two codes of 4 bits lie in a byte, the even column in the low half: sign, two bits of exponent, one of mantissa. A scale
in E4M3 belongs to 16 columns of a row, another one in fp32 to the expert. For now the weights are turned back into
numbers for each call: right on any card, and slow.

Source: spec 2.3, 8.3.
"""

import torch
from torch import Tensor

from workers.engine.kernels.experts import experts
from workers.engine.kernels.route import Routing

BLOCK = 16  # columns that share a scale
AT_ONCE = 16  # experts whose numbers lie in fp32 at one time


def experts_nvfp4(
    x: Tensor,
    routing: Routing,
    up: Tensor,
    up_block_scale: Tensor,
    up_scale: Tensor,
    down: Tensor,
    down_block_scale: Tensor,
    down_scale: Tensor,
    shared: Tensor | None = None,
) -> Tensor:
    """Weighted sum over the chosen experts.

    Args:
        x: [T, D].
        routing: [T, k] experts and their weights.
        up: [E, F, D / 2] bytes.
        down: [E, D, F / 2] bytes.
        up_block_scale, down_block_scale: [E, F, D / 16] and [E, D, F / 16] E4M3, row-major.
        up_scale, down_scale: [E] f32.
        shared: [T, D], added to the sum.

    Returns:
        [T, D] of the dtype of x; added up in fp32.
    """
    whole_up = dequantised(up, up_block_scale, up_scale, x.dtype)
    return experts(x, routing, whole_up, dequantised(down, down_block_scale, down_scale, x.dtype), shared)


def dequantised(packed: Tensor, block_scale: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """[E, out, in] of `dtype`."""
    count, out, half = packed.shape
    whole = torch.empty(count, out, 2 * half, dtype=dtype, device=packed.device)
    for at in range(0, count, AT_ONCE):
        part = slice(at, at + AT_ONCE)
        by_block = (0.5 * scale[part, None, None]) * block_scale[part].float()
        blocks = halves(packed[part]).unflatten(-1, (-1, BLOCK)) * by_block[..., None]
        whole[part] = blocks.flatten(-2)
    return whole


def halves(packed: Tensor) -> Tensor:
    """[..., in] int8: twice the number of each code. In whole numbers, for a table would have to come from the host."""
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).to(torch.int8)
    exponent, mantissa = (codes >> 1) & 3, codes & 1
    normal = (2 + mantissa) << (exponent - 1).clamp_min(0)
    return normal.where(exponent > 0, mantissa) * (1 - ((codes >> 2) & 2))
