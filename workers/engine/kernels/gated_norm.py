"""What ends a Mamba-2 mixer: a silu gate, then RMS over each group of channels.

Source: spec 2.2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    """Gate first, then normalise.

    Args:
        x: [T, H P].
        gate: [T, H P] before its silu.
        weight: [H P].

    Returns:
        [T, H P] of the dtype of `gate`.
    """
    return gated_norm_ref(x, gate, weight, groups, eps)


def gated_norm_ref(x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    gated = (x.float() * F.silu(gate.float())).unflatten(-1, (groups, -1))
    normed = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + eps)
    return (weight.float() * normed.flatten(-2)).to(gate.dtype)
