"""What the chosen experts say of a token, added up in the order of the choice, and what the shared one says."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.kernels.jit import jit, kernels_run, tl, triton


def weighted_sum(rows: Tensor, place: Tensor, weights: Tensor, shared: Tensor | None = None) -> Tensor:
    """[T, D] of the dtype of the rows; added up in fp32.

    Args:
        rows: [T k, D] in the order of the experts.
        place: [T k] int32 where the row of a pair stands.
        weights: [T, k] f32.
        shared: [T, D], added with weight 1.
    """
    return (weighted_sum_kernel if kernels_run(rows) else weighted_sum_ref)(rows, place, weights, shared)


def weighted_sum_ref(rows: Tensor, place: Tensor, weights: Tensor, shared: Tensor | None = None) -> Tensor:
    total = torch.einsum("tkd,tk->td", rows[place].unflatten(0, weights.shape).float(), weights)
    return (total if shared is None else total + shared.float()).to(rows.dtype)


def weighted_sum_kernel(rows: Tensor, place: Tensor, weights: Tensor, shared: Tensor | None = None) -> Tensor:
    tokens, chosen = weights.shape
    width = rows.shape[1]
    out = torch.empty(tokens, width, dtype=rows.dtype, device=rows.device)
    if tokens:
        _weighted_sum[(tokens, triton.cdiv(width, 1024))](
            rows, place, weights, out if shared is None else shared.contiguous(), out,
            TOP_K=chosen, WIDTH=width, SHARED=shared is not None, BLOCK=1024, num_warps=4,
        )  # fmt: skip
    return out


@jit
def _weighted_sum(
    rows, place, weights, shared, out,
    TOP_K: tl.constexpr, WIDTH: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    total = tl.zeros([BLOCK], tl.float32)
    for choice in tl.static_range(TOP_K):
        row = tl.load(place + token * TOP_K + choice)
        weight = tl.load(weights + token * TOP_K + choice)
        total += weight * tl.load(rows + row.to(tl.int64) * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    at = token.to(tl.int64) * WIDTH + column
    if SHARED:
        total += tl.load(shared + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)
