"""RMSNorm of a sum: what a block does first. Returns everything that is read after it.

Source: spec 2.1; the weight is multiplied before the cast.
"""

from typing import NamedTuple

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0


class Normed(NamedTuple):
    """
    Attributes:
        residual: [T, D] the sum, rounded to the dtype of the stream.
        value: [T, D] the sum normalised, same dtype.
        codes: [T, D] E4M3 of value / scale, one for each scale asked for.
    """

    residual: Tensor
    value: Tensor
    codes: tuple[Tensor, ...] = ()


def add_rms_norm(
    residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float, scales: tuple[Tensor, ...] = ()
) -> Normed:
    """Adds, normalises, quantises.

    Args:
        residual: [T, D].
        delta: [T, D] what the last block added; None in front of the first.
        weight: [D].
        scales: [] f32 each.
    """
    return add_rms_norm_ref(residual, delta, weight, eps, scales)


def add_rms_norm_ref(
    residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float, scales: tuple[Tensor, ...] = ()
) -> Normed:
    if delta is not None:
        residual = residual + delta
    wide = residual.float()
    wide = weight.float() * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps))
    # Codes come from the rounded value: the same numbers as when the linear layer quantises it itself.
    value = wide.to(residual.dtype)
    codes = tuple((value.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3) for scale in scales)
    return Normed(residual, value, codes)
