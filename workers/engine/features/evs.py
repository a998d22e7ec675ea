"""Efficient Video Sampling: tokens that changed least since the tubelet before are dropped.

How many stay is known from the sizes; which ones only once the tower has run. Without positions in the text model
nothing else depends on the choice.

Source: spec 3.6; arXiv 2510.14624.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FIRST = 255.0  # above any 1 - cosine: the first tubelet stays whole


@dataclass(frozen=True, slots=True)
class Kept:
    """Which tokens of one video stay.

    Attributes:
        index: [kept] int64, ascending, into the tokens of all tubelets in order.
        counts: [tubelets] int64, how many of each tubelet.
    """

    index: Tensor
    counts: Tensor


def kept_tokens(tubelets: int, per_tubelet: int, rate: float) -> int:
    """How many tokens stay when the share `rate` is dropped; never less than one tubelet.

    Raises:
        ValueError: a rate outside 0..1.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"expected a rate of at least 0 and below 1, got {rate}")
    return max(per_tubelet, int(tubelets * per_tubelet * (1 - rate)))


def choose(tokens: Tensor, rate: float) -> Kept:
    """The tokens that stay. Ties keep the earlier one. Waits for nothing on the device.

    Args:
        tokens: [tubelets, per_tubelet, hidden], after the projector.
        rate: share to drop; 0 keeps all.
    """
    tubelets, per_tubelet, _ = tokens.shape
    changed = 1 - F.cosine_similarity(tokens[1:], tokens[:-1], dim=-1)
    changed = torch.cat([torch.full_like(tokens[:1, :, 0], FIRST), changed])
    order = torch.argsort(changed.flatten(), descending=True, stable=True)
    index = order[: kept_tokens(tubelets, per_tubelet, rate)].sort().values
    counts = torch.zeros(tubelets, dtype=torch.int64, device=tokens.device)
    counts.scatter_add_(0, index // per_tubelet, torch.ones_like(index))
    return Kept(index, counts)
