"""The causal depthwise convolution of Mamba-2 and the inputs it remembers.

A slot keeps its last R inputs in a ring at `position % R`; nothing is ever shifted, so taking tokens back is a change
of length. Rows of one call may belong to many sequences, decoding or not.

Source: spec 2.2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    ring: Tensor,
    positions: Tensor,
    query_start: Tensor,
    state_slot: Tensor,
) -> Tensor:
    """silu(convolution + bias). Writes the last R rows of each sequence into `ring`.

    Args:
        x: [T, C] before the convolution.
        weight: [C, K]; the last tap meets the token itself.
        bias: [C].
        ring: [slots, R, C] of the dtype of x, R >= K - 1.
        positions: [T] in the sequence.
        query_start: [S + 1] first row of each sequence; the last is T.
        state_slot: [S]; 0 is padding and not written.

    Returns:
        [T, C] of the dtype of x.
    """
    return causal_conv_ref(x, weight, bias, ring, positions, query_start, state_slot)


def causal_conv_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    ring: Tensor,
    positions: Tensor,
    query_start: Tensor,
    state_slot: Tensor,
) -> Tensor:
    rows, size, taps = torch.arange(len(x), device=x.device), ring.shape[1], weight.shape[1]
    sequence = torch.searchsorted(query_start, rows, right=True) - 1
    slot, start = state_slot[sequence], query_start[sequence]
    out = bias.float().expand(x.shape)
    for lag in range(taps):
        # Before the first position is nothing, though the ring may still hold inputs of the slot's last sequence.
        past = ring[slot, (positions - lag) % size].where((positions >= lag)[:, None], 0.0)
        present = x[(rows - lag).clamp_min(0)]
        tap = present.where((rows - lag >= start)[:, None], past)
        out = out + tap.float() * weight[:, taps - 1 - lag].float()
    _remember(x, ring, positions, slot, rows_left=query_start[sequence + 1] - rows)
    return F.silu(out).to(x.dtype)


def _remember(x: Tensor, ring: Tensor, positions: Tensor, slot: Tensor, rows_left: Tensor) -> None:
    size = ring.shape[1]
    kept = (rows_left <= size) & (slot > 0)
    slot, at = slot.where(kept, 0), (positions % size).where(kept, 0)
    ring[slot, at] = x.where(kept[:, None], ring[0, 0])
