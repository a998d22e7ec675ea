"""Pairs of token and expert in the order of the experts, so that the rows of one expert lie together.

The order is stable: within an expert by pair, that is by token. No atomics: the same choice gives the same order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from workers.engine.kernels.jit import jit, kernels_run, tl


class Sorted(NamedTuple):
    """
    Attributes:
        order: [T k] int32 which pair, counted token by token, stands at a place.
        place: [T k] int32 the place of a pair; the inverse of `order`.
        ends: [E] int32 the place behind the last one of an expert.
    """

    order: Tensor
    place: Tensor
    ends: Tensor


def by_expert(chosen: Tensor, count: int) -> Sorted:
    """Sorts the pairs of `chosen`, [T, k] int32 or int64, by expert, of which there are `count`."""
    return (by_expert_kernel if kernels_run(chosen) else by_expert_ref)(chosen, count)


def by_expert_ref(chosen: Tensor, count: int) -> Sorted:
    expert, order = chosen.flatten().sort(stable=True)
    ends = torch.searchsorted(expert, torch.arange(count, device=chosen.device, dtype=chosen.dtype), right=True)
    return Sorted(order.int(), order.argsort().int(), ends.int())


def by_expert_kernel(chosen: Tensor, count: int) -> Sorted:
    pairs = chosen.numel()
    order, place = torch.empty(2, pairs, dtype=torch.int32, device=chosen.device)
    ends = torch.empty(count, dtype=torch.int32, device=chosen.device)
    block, warps = (1024, 4) if pairs <= 1024 else (4096, 8)
    _by_expert[(count,)](chosen.contiguous(), order, place, ends, pairs, BLOCK=block, num_warps=warps)
    return Sorted(order, place, ends)


@jit(do_not_specialize=["pairs"])
def _by_expert(chosen, order, place, ends, pairs, BLOCK: tl.constexpr):
    """A program is an expert: it reads every choice, counts those of smaller experts, and places its own behind."""
    expert = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    before = tl.zeros([BLOCK], tl.int32)
    for at in range(0, pairs, BLOCK):
        before += (tl.load(chosen + at + lane, mask=at + lane < pairs, other=expert) < expert).to(tl.int32)
    start = tl.sum(before, 0)
    for at in range(0, pairs, BLOCK):
        pair = at + lane
        mine = tl.load(chosen + pair, mask=pair < pairs, other=-1) == expert
        rank = start + tl.cumsum(mine.to(tl.int32), 0) - 1
        tl.store(order + rank, pair, mask=mine)
        tl.store(place + pair, rank, mask=mine)
        start += tl.sum(mine.to(tl.int32), 0)
    tl.store(ends + expert, start)
