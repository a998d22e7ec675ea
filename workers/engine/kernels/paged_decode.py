"""Attention of one query row a sequence over a paged cache, in splits of a fixed length and their sum.

A split's sums depend on nothing but its own positions, so an answer does not depend on the batch. The grid depends on
the machine alone: a program finds its splits among those that the sequences have, and one graph serves every context.
"""

from __future__ import annotations

from functools import cache as remember

import torch
from torch import Tensor

from workers.engine.kernels.jit import jit, tl, triton
from workers.engine.kernels.quantise import E4M3

SPLIT, TILE, WARPS, STAGES = 1024, 64, 4, 3  # positions of a split, and of one turn of its loop
PROGRAMS = 3  # on one multiprocessor
SUMMED = 4  # heads of a program that adds splits up


def paged_decode_kernel(
    queries: Tensor,
    cache: Tensor,
    block_table: Tensor,
    context_len: Tensor,
    scale: Tensor,
    out: Tensor,
    *,
    longest_context: int,
    split: int = SPLIT,
    tile: int = TILE,
    warps: int = WARPS,
    stages: int = STAGES,
    programs: int = PROGRAMS,
) -> None:
    """Writes `out`.

    Args:
        queries, out: [S, Hq, W], heads one behind the other; Hq is 16 Hk.
        cache: [blocks, 2, block, Hk, W]; no block is in two sequences, the padding one excepted.
        block_table: [S, most blocks] int32.
        context_len: [S] int64.
        scale: [2] f32.
        longest_context: at least that of any sequence.
    """
    sequences, heads, width = queries.shape
    blocks, _, block, kv_heads, _ = cache.shape
    most = triton.cdiv(longest_context, split)
    # Every sequence has at most one split that is not full.
    items = min(sequences * most, blocks * block // split + sequences)
    sums = torch.empty((items, heads, width), dtype=torch.float32, device=queries.device)
    logs = torch.empty((items, heads), dtype=torch.float32, device=queries.device)
    first = torch.empty(sequences, dtype=torch.int32, device=queries.device)
    _splits[(min(items * kv_heads, programs * _multiprocessors(queries.device)),)](
        queries, cache, block_table, context_len, scale, out, sums, logs, first,
        sequences, queries.stride(0), block_table.stride(0), width**-0.5,
        BLOCK=block, HK=kv_heads, GROUP=heads // kv_heads, W=width, E4M3=cache.dtype == E4M3,
        SPLIT=split, BN=min(tile, block), BS=512, STAGES=stages, num_warps=warps,
    )  # fmt: skip
    if most > 1:
        _sum[(sequences, heads // SUMMED)](
            sums, logs, first, context_len, out, HQ=heads, W=width, SPLIT=split, BH=SUMMED, BI=8, num_warps=4
        )


@remember
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


@jit(do_not_specialize=["sequences", "table_stride"])
def _splits(
    queries,
    cache,
    block_table,
    context_len,
    scale,
    out,
    sums,
    logs,
    first,
    sequences,
    row_stride,
    table_stride,
    softmax_scale,
    BLOCK: tl.constexpr,
    HK: tl.constexpr,
    GROUP: tl.constexpr,
    W: tl.constexpr,
    E4M3: tl.constexpr,
    SPLIT: tl.constexpr,
    BN: tl.constexpr,
    BS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Program: every n-th pair of split and KV head; the 16 query heads of one are the rows of its products.

    A sequence of one split is finished here; of others the sum of each split and the logarithm of its weights remain.
    """
    # E4M3 is exact in fp16, and one instruction turns two codes into it; bf16 takes four.
    FORM: tl.constexpr = tl.float16 if E4M3 else queries.dtype.element_ty
    POSITION: tl.constexpr = HK * W
    factor, value_scale = softmax_scale * 1.4426950408889634, 1.0
    if E4M3:
        factor *= tl.load(scale)
        value_scale = tl.load(scale + 1)
    group, across, row = tl.arange(0, GROUP), tl.arange(0, W), tl.arange(0, BN)
    total = 0
    for base in tl.range(0, sequences, BS, num_stages=1):
        total += tl.sum(_counts(context_len, base, sequences, SPLIT, BS))
    for item in range(tl.program_id(0), total * HK, tl.num_programs(0)):
        head, split = item % HK, item // HK
        sequence, begin = _owner(context_len, split, sequences, SPLIT, BS)
        context = tl.load(context_len + sequence).to(tl.int32)
        start = (split - begin) * SPLIT
        end = tl.minimum(start + SPLIT, context)
        heads = head * GROUP + group
        query = tl.load(queries + sequence * row_stride + heads[:, None] * W + across)
        if E4M3:
            query = tl.clamp(query.to(tl.float32), -65504.0, 65504.0)
        query = query.to(FORM)
        blocks = block_table + tl.cast(sequence, tl.int64) * table_stride
        inside = row[:, None] * POSITION + head * W + across
        top = tl.full([GROUP], -float("inf"), tl.float32)
        weight = tl.zeros([GROUP], tl.float32)
        total_value = tl.zeros([GROUP, W], tl.float32)
        block = tl.load(blocks + start // BLOCK)
        for at in tl.range(start, end, BN, num_stages=STAGES):
            tile = cache + (block.to(tl.int64) * (2 * BLOCK) + at % BLOCK) * POSITION + inside
            block = tl.load(blocks + tl.minimum(at + BN, end - 1) // BLOCK)  # one turn before it is needed
            known = at + row < end
            key = tl.load(tile, mask=known[:, None], other=0.0)
            value = tl.load(tile + BLOCK * POSITION, mask=known[:, None], other=0.0)
            score = tl.dot(query, tl.trans(key.to(FORM)), input_precision="ieee") * factor
            score = tl.where(known, score, -float("inf"))
            higher = tl.maximum(top, tl.max(score, 1))
            part = tl.exp2(score - higher[:, None])
            shrink = tl.exp2(top - higher)
            weight = weight * shrink + tl.sum(part, 1)
            total_value = tl.dot(part.to(FORM), value.to(FORM), total_value * shrink[:, None], input_precision="ieee")
            top = higher
        mean = total_value * (value_scale / weight)[:, None]
        if context <= SPLIT:
            row_of = tl.cast(sequence, tl.int64) * (HK * GROUP) + heads
            tl.store(out + row_of[:, None] * W + across, mean.to(out.dtype.element_ty))
        else:
            row_of = tl.cast(split, tl.int64) * (HK * GROUP) + heads
            tl.store(sums + row_of[:, None] * W + across, mean)
            tl.store(logs + row_of, top + tl.log2(weight))
            tl.store(first + sequence, begin)


@jit
def _counts(context_len, base, sequences, SPLIT: tl.constexpr, BS: tl.constexpr):
    """[BS] splits of the sequences from `base` on."""
    at = base + tl.arange(0, BS)
    return (tl.load(context_len + at, mask=at < sequences, other=0).to(tl.int32) + SPLIT - 1) // SPLIT


@jit
def _owner(context_len, split, sequences, SPLIT: tl.constexpr, BS: tl.constexpr):
    """The sequence whose split it is, and the first split of that sequence."""
    sequence, begin, before = 0, 0, 0
    for base in tl.range(0, sequences, BS, num_stages=1):
        counts = _counts(context_len, base, sequences, SPLIT, BS)
        done = before + tl.cumsum(counts, 0) <= split
        sequence += tl.sum(done.to(tl.int32))
        begin += tl.sum(tl.where(done, counts, 0))
        before += tl.sum(counts)
    return sequence, begin


@jit
def _sum(
    sums,
    logs,
    first,
    context_len,
    out,
    HQ: tl.constexpr,
    W: tl.constexpr,
    SPLIT: tl.constexpr,
    BH: tl.constexpr,
    BI: tl.constexpr,
):
    """Program: `BH` heads of a sequence, `BI` splits a turn."""
    sequence = tl.program_id(0)
    splits = (tl.load(context_len + sequence).to(tl.int32) + SPLIT - 1) // SPLIT
    if splits > 1:
        heads, across = tl.program_id(1) * BH + tl.arange(0, BH), tl.arange(0, W)
        begin = tl.load(first + sequence).to(tl.int64)
        top = tl.full([BH], -float("inf"), tl.float32)
        weight = tl.zeros([BH], tl.float32)
        total = tl.zeros([BH, W], tl.float32)
        for at in tl.range(0, splits, BI, num_stages=1):
            item = at + tl.arange(0, BI)
            place = (begin + item)[:, None] * HQ + heads  # [BI, BH]
            known = (item < splits)[:, None]
            log = tl.load(logs + place, mask=known, other=-float("inf"))
            value = tl.load(sums + place[:, :, None] * W + across, mask=known[:, :, None], other=0.0)
            higher = tl.maximum(top, tl.max(log, 0))
            part = tl.exp2(log - higher)
            shrink = tl.exp2(top - higher)
            weight = weight * shrink + tl.sum(part, 0)
            total = total * shrink[:, None] + tl.sum(value * part[:, :, None], 0)
            top = higher
        place = (sequence.to(tl.int64) * HQ + heads)[:, None] * W + across
        tl.store(out + place, (total / weight[:, None]).to(out.dtype.element_ty))
