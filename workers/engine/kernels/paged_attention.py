"""Causal attention over a paged cache, without positions.

Source: spec 2.4.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.jit import kernels_run
from workers.engine.kernels.paged_decode import paged_decode_kernel
from workers.engine.kernels.paged_prefill import paged_prefill_kernel
from workers.engine.kernels.quantise import E4M3


def paged_attention(
    queries: Tensor,
    cache: Tensor,
    block_table: Tensor,
    query_start: Tensor,
    context_len: Tensor,
    scale: Tensor,
    *,
    decodes: int,
    longest_query: int,
    longest_context: int,
) -> Tensor:
    """Each query meets the keys of its sequence up to its own position, which the cache already holds.

    Args:
        queries: [T, Hq, W]; rows of the `decodes` first sequences are one each.
        cache: [blocks, 2, block, Hk, W].
        block_table: [S, most blocks] the blocks of a sequence in order.
        query_start: [S + 1] first row of each sequence; the last is T.
        context_len: [S] positions of the sequence in the cache, those of this step included.
        scale: [2] f32 that keys and values of an E4M3 cache are multiplied by.
        longest_query, longest_context: at least those of any sequence beyond `decodes`, and of any.

    Returns:
        [T, Hq, W].
    """
    kernel = kernels_run(queries) and _kernels_take(queries, cache)
    attention = paged_attention_kernel if kernel else paged_attention_ref
    return attention(
        queries, cache, block_table, query_start, context_len, scale,
        decodes=decodes, longest_query=longest_query, longest_context=longest_context,
    )  # fmt: skip


def paged_attention_ref(
    queries: Tensor,
    cache: Tensor,
    block_table: Tensor,
    query_start: Tensor,
    context_len: Tensor,
    scale: Tensor,
    *,
    decodes: int,
    longest_query: int,
    longest_context: int,
) -> Tensor:
    blocks = block_table[:, : -(-longest_context // cache.shape[2])]
    before = context_len - query_start.diff()  # positions that earlier steps wrote
    parts = []
    if decodes:
        one = queries[:decodes, None]
        parts.append(_attend(one, cache, blocks[:decodes], before[:decodes], context_len[:decodes], scale)[:, 0])
    if decodes < len(context_len):
        starts = query_start[decodes:]
        rows = starts[:-1, None] + torch.arange(longest_query, device=queries.device)  # [S, Q]
        padded = queries[rows.clamp_max(len(queries) - 1)]
        out = _attend(padded, cache, blocks[decodes:], before[decodes:], context_len[decodes:], scale)
        tokens = torch.arange(decodes, len(queries), device=queries.device)
        sequence = torch.searchsorted(starts, tokens, right=True) - 1
        parts.append(out[sequence, tokens - starts[sequence]])
    return torch.cat(parts)


def _kernels_take(queries: Tensor, cache: Tensor) -> bool:
    """Sixteen query heads make the rows of a product; a tile of positions lies in one block."""
    _, heads, width = queries.shape
    _, _, block, kv_heads, _ = cache.shape
    return (
        queries.dtype in (torch.bfloat16, torch.float16)
        and cache.dtype in (queries.dtype, E4M3)
        and heads == 16 * kv_heads
        and all(size >= 16 and size & (size - 1) == 0 for size in (width, block))
        and queries.stride()[1:] == (width, 1)
        and cache.is_contiguous()
    )


def paged_attention_kernel(
    queries: Tensor,
    cache: Tensor,
    block_table: Tensor,
    query_start: Tensor,
    context_len: Tensor,
    scale: Tensor,
    *,
    decodes: int,
    longest_query: int,
    longest_context: int,
) -> Tensor:
    """As `paged_attention`; no block is in two sequences, the padding one excepted."""
    out = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
    if decodes:
        rows = slice(decodes)
        paged_decode_kernel(
            queries[rows], cache, block_table[rows], context_len[rows], scale, out[rows],
            longest_context=longest_context,
        )  # fmt: skip
    if decodes < len(context_len):
        paged_prefill_kernel(queries, cache, block_table, query_start, context_len, scale, out, decodes=decodes)
    return out


def _attend(
    queries: Tensor, cache: Tensor, blocks: Tensor, before: Tensor, context_len: Tensor, scale: Tensor
) -> Tensor:
    """[S, Q, Hq, W] queries at positions `before` and on; what stands behind a sequence's last one is of no use."""
    pages = cache[blocks]  # [S, blocks, 2, block, Hk, W]
    if cache.dtype == E4M3:
        pages = (pages.float() * scale[:, None, None, None]).to(queries.dtype)
    keys, values = pages.transpose(1, 2).flatten(2, 3).unbind(1)  # [S, J, Hk, W]
    at = torch.arange(keys.shape[1], device=queries.device)
    known = at < context_len[:, None]  # [S, J]
    place = before[:, None] + torch.arange(queries.shape[1], device=queries.device)
    seen = known[:, None] & (at <= place[..., None])  # [S, Q, J]
    # Behind the context a page may hold anything, NaN as well, which a weight of zero would not undo.
    keys, values = keys.where(known[..., None, None], 0.0), values.where(known[..., None, None], 0.0)
    out = F.scaled_dot_product_attention(
        queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), seen[:, None], enable_gqa=True
    )
    return out.transpose(1, 2)
