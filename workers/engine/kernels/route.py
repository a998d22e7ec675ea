"""Which experts see a token, and with what weight.

The correction bias moves the choice only, never the weights. Both dot product and scores are fp32: in bf16 other
experts would be chosen.

Source: spec 2.3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from workers.engine.kernels.jit import jit, kernels_run, tl, triton

# Rows of a tile of scores, and parts of the sum of each, by the most tokens: enough programs for 132 processors.
SCORE_TILES = ((128, 16, 21), (512, 16, 7), (1024, 32, 7), (2048, 64, 3))
DEPTH = 128


class Routing(NamedTuple):
    """
    Attributes:
        experts: [T, k] int32 or int64.
        weights: [T, k] f32.
    """

    experts: Tensor
    weights: Tensor


def route(x: Tensor, weight: Tensor, bias: Tensor, *, top_k: int, scale: float, normalise: bool) -> Routing:
    """The best `top_k` experts of each token.

    Args:
        x: [T, D].
        weight: [E, D] of the dtype of x.
        bias: [E] f32, added for the choice.
        scale: of the weights.
        normalise: whether the weights of a token sum up to `scale`.
    """
    experts, width = weight.shape
    # Tensor cores multiply bf16 exactly and add in fp32.
    fits = x.dtype == torch.bfloat16 and experts in (64, 128, 256) and width % DEPTH == 0
    op = route_kernel if kernels_run(x) and fits else route_ref
    return op(x, weight, bias, top_k=top_k, scale=scale, normalise=normalise)


def route_ref(x: Tensor, weight: Tensor, bias: Tensor, *, top_k: int, scale: float, normalise: bool) -> Routing:
    return choose_ref(x.float() @ weight.float().t(), bias, top_k=top_k, scale=scale, normalise=normalise)


def choose_ref(logits: Tensor, bias: Tensor, *, top_k: int, scale: float, normalise: bool) -> Routing:
    """From [T, E] f32."""
    scores = logits.sigmoid()
    experts = (scores + bias).topk(top_k, sorted=False).indices
    weights = scores.gather(1, experts)
    if normalise:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return Routing(experts, weights * scale)


def route_kernel(x: Tensor, weight: Tensor, bias: Tensor, *, top_k: int, scale: float, normalise: bool) -> Routing:
    return choose_kernel(scores_kernel(x, weight), bias, top_k=top_k, scale=scale, normalise=normalise)


def scores_kernel(x: Tensor, weight: Tensor) -> Tensor:
    """[P, T, E] f32: the dot products, in P parts that are still to be added."""
    (tokens, width), experts = x.shape, len(weight)
    tile = next(((rows, parts) for most, rows, parts in SCORE_TILES if tokens <= most), None)
    if tile is None:
        return torch.mm(x, weight.t(), out_dtype=torch.float32)[None]
    rows, parts = tile
    steps = width // DEPTH
    part = -(-steps // parts)
    parts = -(-steps // part)
    out = torch.empty(parts, tokens, experts, dtype=torch.float32, device=x.device)
    if tokens:
        _scores[(triton.cdiv(tokens, rows), parts)](
            x.contiguous(), weight, out, tokens,
            WIDTH=width, EXPERTS=experts, ROWS=rows, DEPTH=DEPTH, PART=part, num_warps=4, num_stages=3,
        )  # fmt: skip
    return out


def choose_kernel(parts: Tensor, bias: Tensor, *, top_k: int, scale: float, normalise: bool) -> Routing:
    """From [P, T, E] f32 that are added up to logits; of equal ones the first expert."""
    count, tokens, experts = parts.shape
    chosen = torch.empty(tokens, top_k, dtype=torch.int32, device=parts.device)
    weights = torch.empty(tokens, top_k, dtype=torch.float32, device=parts.device)
    if tokens:
        _choose[(triton.cdiv(tokens, 2),)](
            parts, bias, chosen, weights, tokens, scale,
            PARTS=count, EXPERTS=experts, TOP_K=top_k, PADDED=triton.next_power_of_2(top_k),
            NORMALISE=normalise, ROWS=2, num_warps=1,
        )  # fmt: skip
    return Routing(chosen, weights)


@jit(do_not_specialize=["tokens"])
def _scores(
    x, weight, out, tokens,
    WIDTH: tl.constexpr, EXPERTS: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """ROWS tokens, every expert, PART steps of the sum; the experts stand on the left, as in `grouped_mm`."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    expert = tl.arange(0, EXPERTS)
    depth = tl.arange(0, DEPTH)
    first = tl.program_id(1) * PART * DEPTH
    acc = tl.zeros([EXPERTS, ROWS], tl.float32)
    for k in range(first, min(first + PART * DEPTH, WIDTH), DEPTH):
        w_tile = tl.load(weight + expert[:, None] * WIDTH + k + depth[None, :])
        x_at = x + row.to(tl.int64)[:, None] * WIDTH + k + depth[None, :]
        x_tile = tl.load(x_at, mask=row[:, None] < tokens, other=0.0)
        acc = tl.dot(w_tile, x_tile.T, acc)
    at = (tl.program_id(1).to(tl.int64) * tokens + row)[None, :] * EXPERTS + expert[:, None]
    tl.store(out + at, acc, mask=row[None, :] < tokens)


@jit(do_not_specialize=["tokens", "scale"])
def _choose(
    parts, bias, chosen, weights, tokens, scale,
    PARTS: tl.constexpr, EXPERTS: tl.constexpr, TOP_K: tl.constexpr, PADDED: tl.constexpr,
    NORMALISE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = row < tokens
    expert = tl.arange(0, EXPERTS)[None, :]
    at = row.to(tl.int64)[:, None] * EXPERTS + expert
    logits = tl.zeros([ROWS, EXPERTS], tl.float32)
    for part in tl.static_range(PARTS):
        logits += tl.load(parts + part * tokens.to(tl.int64) * EXPERTS + at, mask=live[:, None], other=0.0)
    scores = 1 / (1 + tl.exp(-logits))
    left = scores + tl.load(bias + expert)
    left = tl.where(left == left, left, float("-inf"))  # rows that pad may hold anything
    choice = tl.arange(0, PADDED)[None, :]
    experts = tl.zeros([ROWS, PADDED], tl.int32)
    picked = tl.zeros([ROWS, PADDED], tl.float32)
    for k in tl.static_range(TOP_K):
        best = tl.max(left, 1)
        first = tl.min(tl.where(left == best[:, None], expert, EXPERTS), 1)
        mine = expert == first[:, None]
        experts = tl.where(choice == k, first[:, None], experts)
        picked = tl.where(choice == k, tl.sum(tl.where(mine, scores, 0.0), 1)[:, None], picked)
        left = tl.where(mine, float("-inf"), left)
    if NORMALISE:
        picked /= tl.sum(picked, 1)[:, None] + 1e-20
    at = row[:, None] * TOP_K + choice
    inside = live[:, None] & (choice < TOP_K)
    tl.store(chosen + at, experts, mask=inside)
    tl.store(weights + at, picked * scale, mask=inside)
