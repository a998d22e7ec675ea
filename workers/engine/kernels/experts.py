"""The chosen experts of every token: up, squared relu, down, weighted sum.

Source: spec 2.3.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Sorted(NamedTuple):
    """Pairs of token and expert, in the order of the experts.

    Attributes:
        order: [T k] which pair, counted token by token, stands at a place.
        token: [T k] the token of a place.
        expert: [T k] its expert.
        ends: [E] int32, the place behind the last one of an expert.
    """

    order: Tensor
    token: Tensor
    expert: Tensor
    ends: Tensor


def experts(x: Tensor, chosen: Tensor, weights: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Weighted sum over the chosen experts.

    Args:
        x: [T, D].
        chosen: [T, k] int64 experts.
        weights: [T, k] f32.
        up: [E, F, D] of the dtype of x, D contiguous.
        down: [E, D, F], F contiguous.

    Returns:
        [T, D] of the dtype of x; added up in fp32.
    """
    grouped = x.is_cuda and x.dtype == torch.bfloat16
    return (_experts_grouped if grouped else experts_ref)(x, chosen, weights, up, down)


def experts_ref(x: Tensor, chosen: Tensor, weights: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Every expert sees every token; those that were not chosen weigh nothing."""
    hidden = F.relu(x @ up.transpose(1, 2)).square()  # [E, T, F]
    out = hidden @ down.transpose(1, 2)  # [E, T, D]
    share = torch.zeros(len(x), len(up), device=x.device).scatter(1, chosen, weights)
    return torch.einsum("etd,te->td", out.float(), share).to(x.dtype)


def _experts_grouped(x: Tensor, chosen: Tensor, weights: Tensor, up: Tensor, down: Tensor) -> Tensor:
    pairs = by_expert(chosen, len(up))
    hidden = F.grouped_mm(x[pairs.token], up.transpose(1, 2), offs=pairs.ends)
    out = F.grouped_mm(F.relu(hidden).square(), down.transpose(1, 2), offs=pairs.ends)
    return weighted_sum(out, pairs, weights).to(x.dtype)


def by_expert(chosen: Tensor, count: int) -> Sorted:
    """Sorts the pairs of [T, k] by expert, on the device."""
    expert, order = chosen.flatten().sort(stable=True)
    ends = torch.searchsorted(expert, torch.arange(count, device=chosen.device), right=True)
    return Sorted(order, order // chosen.shape[1], expert, ends.int())


def weighted_sum(out: Tensor, pairs: Sorted, weights: Tensor) -> Tensor:
    """[T, D] f32 from the rows [T k, D] of the pairs; always added in the order of the choice."""
    by_token = torch.empty_like(out).index_copy(0, pairs.order, out)
    return torch.einsum("tkd,tk->td", by_token.unflatten(0, weights.shape).float(), weights)
