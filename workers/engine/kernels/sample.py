"""The next token of each row: mask, temperature, top-k, top-p, a draw, and ids that are forced.

Candidates stand in order of logit, equal ones by id; top-k keeps the first k of them, top-p the fewest whose share
reaches p. Shares are whole numbers and their sums are exact, so a row's token is the same in any batch.

Source: the order of the cuts is that of vLLM and transformers (top-k, then top-p over what it left).
"""

import torch
from torch import Tensor

from workers.engine.kernels.philox import uniform

NEGATIVE = float("-inf")


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    seed: Tensor,
    position: Tensor,
    forced_id: Tensor,
    mask_row: Tensor,
    masks: Tensor,
    *,
    greedy: bool = False,
) -> Tensor:
    """
    Args:
        logits: [S, vocab] of any float dtype.
        temperature: [S] f32, 0 takes the largest logit (the smallest id of equal ones).
        top_p: [S] f32 in (0, 1].
        top_k: [S] int32, 0 keeps all.
        seed, position: [S] int64, what the draw depends on.
        forced_id: [S] int64, taken as it stands; -1 forces nothing.
        mask_row: [S] int32, row of `masks`; -1 allows all.
        masks: [rows, ceil(vocab / 32)] int32, bit i of word w allows id 32 w + i; no rows where nothing is masked.
        greedy: the caller knows that every row has temperature 0 or top-k 1.

    Returns:
        [S] int64.
    """
    return sample_ref(
        logits, temperature, top_p, top_k, seed, position, forced_id, mask_row, masks, greedy=greedy
    )  # fmt: skip


def sample_ref(
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    seed: Tensor,
    position: Tensor,
    forced_id: Tensor,
    mask_row: Tensor,
    masks: Tensor,
    *,
    greedy: bool = False,
) -> Tensor:
    allowed = _masked(logits.float(), mask_row, masks)
    if greedy:
        ids = allowed.argmax(-1)
    else:
        ordered, order = allowed.sort(dim=-1, descending=True, stable=True)
        rank = _drawn_rank(ordered, temperature, top_p, top_k, uniform(seed, position))
        ids = order.gather(1, rank[:, None]).squeeze(1)
    return torch.where(forced_id >= 0, forced_id, ids)


def _masked(logits: Tensor, mask_row: Tensor, masks: Tensor) -> Tensor:
    if masks.shape[0] == 0:
        return logits
    words = masks.index_select(0, mask_row.clamp(min=0))  # [S, words]
    bits = (words[:, :, None] >> torch.arange(32, dtype=torch.int32, device=masks.device)) & 1
    refused = (bits == 0).flatten(1)[:, : logits.shape[1]] & (mask_row >= 0)[:, None]
    return logits.masked_fill(refused, NEGATIVE)


def _drawn_rank(ordered: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, draw: Tensor) -> Tensor:
    """Place in the order of the token drawn. `ordered`: [S, vocab] f32, descending; the others [S]."""
    vocab = ordered.shape[1]
    cold = temperature <= 0
    scaled = (ordered - ordered[:, :1]) / temperature.masked_fill(cold, 1.0)[:, None]
    # Weights are multiples of 2^-bits of the largest, so that the sum over a vocabulary is exact in float64 too.
    bits = 53 - (vocab - 1).bit_length()
    weight = (scaled.exp().nan_to_num(0.0).double() * 2.0**bits).round().long()
    upto = weight.cumsum(-1)
    most = torch.where(top_k > 0, top_k, vocab).clamp(max=vocab).long()
    needed = top_p.double() * upto.gather(1, most[:, None] - 1).squeeze(1)
    kept = (upto - weight < needed[:, None]).sum(-1).clamp(min=1)  # never more than top-k: they reach all of it
    total = upto.gather(1, kept[:, None] - 1).squeeze(1)
    target = torch.minimum((draw * total).floor().long(), total - 1)
    drawn = torch.searchsorted(upto, target[:, None], right=True).squeeze(1)
    return torch.minimum(drawn, kept - 1).masked_fill(cold, 0)
