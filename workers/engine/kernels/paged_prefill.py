"""Causal attention of the rows of a prefill over a paged cache that already holds their keys.

A program takes a few rows of one sequence with all query heads of one KV head: they share its keys, and a causal
triangle is cut in steps of a few rows.
"""

from __future__ import annotations

from torch import Tensor

from workers.engine.kernels.jit import TensorDescriptor, jit, tl
from workers.engine.kernels.quantise import E4M3

ROWS, WARPS = 8, 8  # query rows of a program
TILES = {True: (128, 2), False: (64, 3)}  # positions of one turn of its loop, and stages; by whether the cache is E4M3


def paged_prefill_kernel(
    queries: Tensor,
    cache: Tensor,
    block_table: Tensor,
    query_start: Tensor,
    context_len: Tensor,
    scale: Tensor,
    out: Tensor,
    *,
    decodes: int,
    rows: int = ROWS,
    tile: int | None = None,
    warps: int = WARPS,
    stages: int | None = None,
) -> None:
    """Writes `out` behind its first `decodes` rows. The arguments are those of `paged_attention`.

    Heads of a row of `queries` [T, Hq, W] stand one behind the other.
    """
    tokens, heads, width = queries.shape
    _, _, block, kv_heads, _ = cache.shape
    sequences = len(context_len) - decodes
    tiles = (tokens - decodes) // rows + sequences
    own_tile, own_stages = TILES[cache.dtype == E4M3]
    tile = min(tile or own_tile, block)
    pages = TensorDescriptor.from_tensor(cache.view(-1, kv_heads, width), [tile, 1, width])
    _prefill[(kv_heads, tiles)](
        queries, cache, pages, block_table[decodes:], query_start[decodes:], context_len[decodes:], scale, out,
        decodes, sequences, queries.stride(0), block_table.stride(0), width**-0.5,
        BLOCK=block, HK=kv_heads, GROUP=heads // kv_heads, W=width, E4M3=cache.dtype == E4M3,
        BQ=rows, BN=tile, BS=256, STAGES=stages or own_stages, num_warps=warps,
    )  # fmt: skip


@jit(
    do_not_specialize=["decodes", "sequences", "table_stride"],
    # Views that begin at some sequence: their alignment differs from step to step.
    do_not_specialize_on_alignment=["block_table", "query_start", "context_len"],
)
def _prefill(
    queries,
    cache,
    pages,
    block_table,
    query_start,
    context_len,
    scale,
    out,
    decodes,
    sequences,
    row_stride,
    table_stride,
    softmax_scale,
    BLOCK: tl.constexpr,
    HK: tl.constexpr,
    GROUP: tl.constexpr,
    W: tl.constexpr,
    E4M3: tl.constexpr,
    BQ: tl.constexpr,
    BN: tl.constexpr,
    BS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Program: `BQ` rows of a sequence and one KV head; the last rows, which see most, come first."""
    FORM: tl.constexpr = tl.float16 if E4M3 else queries.dtype.element_ty
    POSITION: tl.constexpr = HK * W
    head = tl.program_id(0)
    tile = tl.num_programs(1) - 1 - tl.program_id(1)
    # Sequence s has the tiles from query_start // BQ + s on: one too many here and there, never one too few.
    sequence = -1
    for base in tl.range(0, sequences, BS, num_stages=1):
        at = base + tl.arange(0, BS)
        begin = (tl.load(query_start + at, mask=at < sequences, other=0).to(tl.int32) - decodes) // BQ + at
        sequence += tl.sum(((begin <= tile) & (at < sequences)).to(tl.int32))
    query_row = tl.load(query_start + sequence).to(tl.int32)
    count = tl.load(query_start + sequence + 1).to(tl.int32) - query_row
    row = (tile - (query_row - decodes) // BQ - sequence) * BQ
    if row < count:
        before = tl.load(context_len + sequence).to(tl.int32) - count
        pair, across = tl.arange(0, BQ * GROUP), tl.arange(0, W)
        rows, heads = row + pair // GROUP, head * GROUP + pair % GROUP
        held = (rows < count)[:, None]
        place = (query_row + rows).to(tl.int64)
        query = tl.load(queries + (place * row_stride + heads * W)[:, None] + across, mask=held, other=0.0)
        factor, value_scale = softmax_scale * 1.4426950408889634, 1.0
        if E4M3:
            factor *= tl.load(scale)
            value_scale = tl.load(scale + 1)
            query = tl.clamp(query.to(tl.float32), -65504.0, 65504.0)
        query = query.to(FORM)
        blocks = block_table + tl.cast(sequence, tl.int64) * table_stride
        inside = tl.arange(0, BN)[:, None] * POSITION + head * W + across
        top = tl.full([BQ * GROUP], -float("inf"), tl.float32)
        weight = tl.zeros([BQ * GROUP], tl.float32)
        total = tl.zeros([BQ * GROUP, W], tl.float32)
        last = before + rows  # position of each row
        seen_by_all = (before + row + 1) // BN * BN
        end = before + tl.minimum(row + BQ, count)
        top, weight, total = _turns(
            query, cache, pages, head, blocks, inside, 0, seen_by_all, last, end, top, weight, total, factor,
            BLOCK, POSITION, FORM, BN, False, STAGES,
        )  # fmt: skip
        top, weight, total = _turns(
            query, cache, pages, head, blocks, inside, seen_by_all, end, last, end, top, weight, total, factor,
            BLOCK, POSITION, FORM, BN, True, 1,
        )  # fmt: skip
        mean = total * (value_scale / weight)[:, None]
        tl.store(out + (place * (HK * GROUP) + heads)[:, None] * W + across, mean.to(out.dtype.element_ty), mask=held)


@jit
def _turns(
    query,
    cache,
    pages,
    head,
    blocks,
    inside,
    start,
    stop,
    last,
    end,
    top,
    weight,
    total,
    factor,
    BLOCK: tl.constexpr,
    POSITION: tl.constexpr,
    FORM: tl.constexpr,
    BN: tl.constexpr,
    EDGE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Positions from `start` to `stop`; at the edge a row may see none of a tile's last ones, but its first."""
    column = tl.arange(0, BN)
    block = tl.load(blocks + start // BLOCK, mask=start < stop, other=0)
    for at in tl.range(start, stop, BN, num_stages=STAGES):
        place = block * (2 * BLOCK) + at % BLOCK
        tile = cache + place.to(tl.int64) * POSITION + inside
        block = tl.load(blocks + tl.minimum(at + BN, end - 1) // BLOCK)  # one turn before it is needed
        if EDGE:
            known = (at + column < end)[:, None]
            key = tl.load(tile, mask=known, other=0.0)
            value = tl.load(tile + BLOCK * POSITION, mask=known, other=0.0)
        else:
            key = pages.load([place, head, 0]).reshape(BN, query.shape[1])
            value = pages.load([place + BLOCK, head, 0]).reshape(BN, query.shape[1])
        score = tl.dot(query, tl.trans(key.to(FORM)), input_precision="ieee")
        if EDGE:
            score = tl.where(at + column <= last[:, None], score, -float("inf"))
        higher = tl.maximum(top, tl.max(score, 1) * factor)
        part = tl.exp2(score * factor - higher[:, None])
        shrink = tl.exp2(top - higher)
        weight = weight * shrink + tl.sum(part, 1)
        total = tl.dot(part.to(FORM), value.to(FORM), total * shrink[:, None], input_precision="ieee")
        top = higher
    return top, weight, total
