"""Rows in the order of the experts times the weight of their expert.

Where an expert has a dozen rows, the weight is what is read: 5 MB in E4M3, once. So the weight stands on the left of
the product, in tiles of 64 or 128 outputs that go from shared memory into the tensor cores as they are, in their own
format; the rows stand on the right, 16 or more of them. With the rows on the left, tiles of fewer than 64 would leave
the warpgroup instructions, and E4M3 would be turned into fp16 first.

    program = (tile, column)    tile    ROWS rows of one expert, found from `ends`: no map, nothing comes to the host
                                column  COLS outputs of it; those of one tile are neighbours, and so are its tiles,
                                        that read the same weight while it is in the L2
    tiles   = at most one for every ROWS pairs and one more for each expert, or one for each pair; surplus ones return
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from workers.engine.kernels.by_expert import Sorted
from workers.engine.kernels.jit import jit, tl, triton
from workers.engine.kernels.quantise import E4M3


class Tile(NamedTuple):
    """
    Attributes:
        rows, cols: of the output.
        depth_bytes: of a row of weights read at a time.
    """

    rows: int
    cols: int
    depth_bytes: int
    warps: int
    stages: int


# By the mean of rows an expert has: the first whose bound is not passed.
TILES: tuple[tuple[float, Tile], ...] = (
    (0.75, Tile(16, 64, 128, 4, 6)),
    (9.0, Tile(16, 64, 256, 4, 3)),
    (24.0, Tile(32, 64, 128, 4, 5)),
    (48.0, Tile(64, 128, 128, 4, 3)),
    (256.0, Tile(128, 128, 128, 8, 4)),
)
MOST_ROWS = {1: Tile(128, 256, 128, 8, 3), 2: Tile(256, 128, 128, 8, 3)}  # beyond, by bytes of a weight


def tile_for(pairs: int, experts: int, weight_bytes: int) -> Tile:
    return next((tile for most, tile in TILES if pairs <= most * experts), MOST_ROWS[weight_bytes])


def grouped_up(
    x: Tensor,
    weight: Tensor,
    pairs: Sorted,
    top_k: int,
    scale: Tensor | None = None,
    input_scale: Tensor | None = None,
    inner_scale: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Squared relu of what the experts make of their tokens: [T k, F], of the dtype of x.

    Args:
        x: [T, D]; in E4M3 divided by `input_scale`.
        weight: [E, F, D] of the dtype of x.
        scale: [E, 1] f32 of the weights; with E4M3.
        input_scale: [] f32; with E4M3.
        inner_scale: [E] f32 by which the result is divided before it is rounded; with E4M3.
    """
    out = torch.empty(len(pairs.order), weight.shape[1], dtype=x.dtype, device=x.device)
    return _launch(x, weight, out, pairs, top_k, scale, input_scale, inner_scale, tile)


def grouped_down(
    hidden: Tensor,
    weight: Tensor,
    pairs: Sorted,
    out_dtype: torch.dtype,
    scale: Tensor | None = None,
    inner_scale: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """[T k, D] of `out_dtype` from hidden [T k, F] and weight [E, D, F]; scales as in `grouped_up`."""
    out = torch.empty(len(hidden), weight.shape[1], dtype=out_dtype, device=hidden.device)
    return _launch(hidden, weight, out, pairs, 0, scale, None, inner_scale, tile)


def _launch(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    pairs: Sorted,
    top_k: int,
    scale: Tensor | None,
    input_scale: Tensor | None,
    inner_scale: Tensor | None,
    tile: Tile | None,
) -> Tensor:
    experts, n, k = weight.shape
    count = len(pairs.order)
    tile = tile or tile_for(count, experts, weight.element_size())
    tiles = min(count, count // tile.rows + experts)
    if tiles:
        none = pairs.ends
        _grouped_mm[(tiles * triton.cdiv(n, tile.cols),)](
            x, weight, out, pairs.order, pairs.ends,
            none if scale is None else scale,
            none if input_scale is None else input_scale,
            none if inner_scale is None else inner_scale,
            N=n, K=k, EXPERTS=experts, PADDED=triton.next_power_of_2(experts), TOP_K=top_k,
            FP8=x.dtype == E4M3, ROWS=tile.rows, COLS=tile.cols, DEPTH=tile.depth_bytes // weight.element_size(),
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out


@jit
def _grouped_mm(
    x, weight, out, order, ends, scale, input_scale, inner_scale,
    N: tl.constexpr, K: tl.constexpr, EXPERTS: tl.constexpr, PADDED: tl.constexpr, TOP_K: tl.constexpr,
    FP8: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """TOP_K > 0: up, from the rows of the tokens; 0: down, from rows as they lie."""
    across: tl.constexpr = (N + COLS - 1) // COLS
    tile, column = tl.program_id(0) // across, tl.program_id(0) % across
    expert, row, end = _rows_of(tile, ends, EXPERTS, PADDED, ROWS)
    if expert >= EXPERTS:
        return
    rows = row + tl.arange(0, ROWS)
    live = rows < end
    source = tl.load(order + rows, mask=live, other=0) // TOP_K if TOP_K > 0 else rows
    cols = column * COLS + tl.arange(0, COLS)
    depth = tl.arange(0, DEPTH)
    x_at = x + source.to(tl.int64)[:, None] * K + depth[None, :]
    # Outputs behind the last one repeat it and are not stored.
    w_at = weight + expert.to(tl.int64) * (N * K) + tl.minimum(cols, N - 1)[:, None] * K + depth[None, :]
    acc = tl.zeros([COLS, ROWS], tl.float32)
    for k in range(0, K, DEPTH):
        if K % DEPTH == 0:
            w_tile = tl.load(w_at + k)
            x_tile = tl.load(x_at + k, mask=live[:, None], other=0.0)
        else:
            inside = depth[None, :] < K - k
            w_tile = tl.load(w_at + k, mask=inside, other=0.0)
            x_tile = tl.load(x_at + k, mask=live[:, None] & inside, other=0.0)
        # E4M3 tensor cores keep few bits of a sum: it moves to fp32 behind every tile.
        acc = tl.dot(w_tile, x_tile.T, acc, max_num_imprecise_acc=DEPTH if FP8 else None)
    if FP8:
        inner = tl.load(inner_scale + expert)
        acc *= tl.load(scale + expert) * (tl.load(input_scale) if TOP_K > 0 else inner)
    if TOP_K > 0:
        acc = tl.maximum(acc, 0.0)
        acc *= acc
        if FP8:
            acc = tl.minimum(acc / inner, 448.0)
    at = rows.to(tl.int64)[None, :] * N + cols[:, None]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=live[None, :] & (cols < N)[:, None])


@jit
def _rows_of(tile, ends, EXPERTS: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr):
    """Expert of a tile, or one beyond the last; its first row; the row behind the last one of the expert."""
    each = tl.arange(0, PADDED)
    end = tl.load(ends + each, mask=each < EXPERTS, other=0)
    start = tl.load(ends + each - 1, mask=(each > 0) & (each < EXPERTS), other=0)
    tiles = (end - start + ROWS - 1) // ROWS
    passed = tl.cumsum(tiles, 0)
    expert = tl.sum(((passed <= tile) & (each < EXPERTS)).to(tl.int32), 0)
    mine = each == expert
    row = tl.sum(tl.where(mine, start + (tile - passed + tiles) * ROWS, 0), 0)
    return expert, row, tl.sum(tl.where(mine, end, 0), 0)
