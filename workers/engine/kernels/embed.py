"""The first rows of the stream: of the pool for media, else of the token that was given or sampled last."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.jit import jit, kernels_run, tl, triton

WIDEST = 8192  # a row lies in the registers of one program


def embed(
    token_ids: Tensor, state_slot: Tensor, media_row: Tensor, last_token: Tensor, media: Tensor, embeddings: Tensor,
    decodes: int,
) -> Tensor:  # fmt: skip
    """
    Args:
        token_ids: [T] int64; below 0 in a decoding row: what its sequence sampled last.
        state_slot: [S] int64, S at least `decodes`.
        media_row: [T] int64, row of `media`; below 0: the token.
        last_token: [slots] int64.
        media: [rows, D].
        embeddings: [vocab, D].
        decodes: rows, and sequences, that decode; they are the first.

    Returns:
        [T, D] of the dtype of both tables.
    """
    tables = media, embeddings
    fits = all(one.dtype == torch.bfloat16 and one.is_contiguous() and one.shape[1] <= WIDEST for one in tables)
    run = embed_kernel if kernels_run(embeddings) and fits else embed_ref
    return run(token_ids, state_slot, media_row, last_token, media, embeddings, decodes)


def embed_ref(
    token_ids: Tensor, state_slot: Tensor, media_row: Tensor, last_token: Tensor, media: Tensor, embeddings: Tensor,
    decodes: int,
) -> Tensor:  # fmt: skip
    sampled, given = last_token[state_slot[:decodes]], token_ids[:decodes]
    ids = torch.cat([given.where(given >= 0, sampled), token_ids[decodes:]])
    chosen = media[media_row.clamp_min(0)]
    return chosen.where((media_row >= 0)[:, None], F.embedding(ids, embeddings))


def embed_kernel(
    token_ids: Tensor, state_slot: Tensor, media_row: Tensor, last_token: Tensor, media: Tensor, embeddings: Tensor,
    decodes: int, *, warps: int = 4,
) -> Tensor:  # fmt: skip
    count, width = len(token_ids), embeddings.shape[1]
    out = embeddings.new_empty(count, width)
    if count:
        _embed[(count,)](
            token_ids, state_slot, media_row, last_token, media, embeddings, out, decodes,
            width=width, block=triton.next_power_of_2(width), num_warps=warps,
        )  # fmt: skip
    return out


@jit(do_not_specialize=["decodes"])
def _embed(
    token_ids, state_slot, media_row, last_token, media, embeddings, out, decodes,
    width: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One row."""
    row = tl.program_id(0)
    at = tl.arange(0, block)
    inside = at < width
    chosen = tl.load(media_row + row)
    if chosen >= 0:
        x = tl.load(media + chosen * width + at, inside)
    else:
        id = tl.load(token_ids + row)
        if (id < 0) & (row < decodes):
            id = tl.load(last_token + tl.load(state_slot + row))
        x = tl.load(embeddings + id * width + at, inside)
    tl.store(out + row.to(tl.int64) * width + at, x, inside)
