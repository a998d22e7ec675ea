"""The causal depthwise convolution of Mamba-2 and the inputs it remembers.

A slot keeps its last R inputs in a ring at `position % R`; nothing is ever shifted, so taking tokens back is a change
of length. Rows of one call may belong to many sequences, decoding or not.

The kernel is two sorts of programs in one launch. Those of the first own a sequence for some channels: its first K - 1
rows, which may need the ring, and then the ring itself, so that what is read is read before it is overwritten. Those of
the second compute all other rows from x alone. Decoding rows are all of the first sort.

Source: spec 2.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.jit import jit, kernels_run, tl, triton


class Tile(NamedTuple):
    """What one program does: channels, for so many sequences or rows, with so many warps."""

    channels: int
    sequences: int
    rows: int
    warps: int


# A row of 8 channels for each thread: the taps then lie in the registers that meet them.
TILE = Tile(1024, 1, 8, 4)


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
    op = causal_conv_kernel if kernels_run(x) and x.dtype == torch.bfloat16 else causal_conv_ref
    return op(x, weight, bias, ring, positions, query_start, state_slot)


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


def causal_conv_kernel(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    ring: Tensor,
    positions: Tensor,
    query_start: Tensor,
    state_slot: Tensor,
    *,
    tile: Tile = TILE,
) -> Tensor:
    """Rows of x may lie apart, and the weight in any order: fastest with the channels of a tap beside each other."""
    tokens, channels = x.shape
    sequences = len(state_slot)
    out = torch.empty(tokens, channels, dtype=x.dtype, device=x.device)
    if not tokens:
        return out
    heads, bodies = triton.cdiv(sequences, tile.sequences), triton.cdiv(tokens, tile.rows)
    _causal_conv[(triton.cdiv(channels, tile.channels), heads + bodies)](
        x, weight, bias, ring, positions, query_start, state_slot, out,
        x.stride(0), weight.stride(0), weight.stride(1), tokens, sequences, heads,
        CHANNELS=channels, TAPS=weight.shape[1], RING=ring.shape[1],
        BLOCK=tile.channels, SEQUENCES=tile.sequences, ROWS=tile.rows, num_warps=tile.warps,
    )  # fmt: skip
    return out


@jit(do_not_specialize=["tokens", "sequences", "heads"])
def _causal_conv(
    x,
    weight,
    bias,
    ring,
    positions,
    query_start,
    state_slot,
    out,
    x_stride,
    weight_channel,
    weight_tap,
    tokens,
    sequences,
    heads,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    RING: tl.constexpr,
    BLOCK: tl.constexpr,
    SEQUENCES: tl.constexpr,
    ROWS: tl.constexpr,
):
    c = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[None, :]  # [1, C]
    inside = c < CHANNELS
    weight += c * weight_channel
    if tl.program_id(1) < heads:
        sequence = tl.program_id(1) * SEQUENCES + tl.arange(0, SEQUENCES)
        _heads(
            x, weight, bias, ring, positions, query_start, state_slot, out,
            x_stride, weight_tap, sequence, sequence < sequences, c, inside, CHANNELS, TAPS, RING,
        )  # fmt: skip
    else:
        row = (tl.program_id(1) - heads) * ROWS + tl.arange(0, ROWS)
        # A row that begins a sequence is no business of this program; with decoding rows only, none is.
        begins = tl.load(query_start + tl.minimum(row, sequences)) == row
        if tl.min((begins | (row >= tokens)).to(tl.int32)) == 0:
            _body(
                x, weight, bias, query_start, out,
                x_stride, weight_tap, row, row < tokens, sequences, c, inside, CHANNELS, TAPS,
            )  # fmt: skip


@jit
def _heads(
    x,
    weight,
    bias,
    ring,
    positions,
    query_start,
    state_slot,
    out,
    x_stride,
    weight_tap,
    sequence,
    known,
    c,
    inside,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    RING: tl.constexpr,
):
    """The first K - 1 rows of some sequences, then their last R rows into the ring."""
    start = tl.load(query_start + sequence, mask=known, other=0)
    count = tl.load(query_start + sequence + 1, mask=known, other=0) - start
    slot = tl.load(state_slot + sequence, mask=known, other=0)
    position = tl.load(positions + start, mask=count > 0, other=0)
    memory = ring + slot[:, None] * (RING * CHANNELS) + c
    rows = x + start[:, None] * x_stride + c
    longest = tl.max(count)

    for at in tl.static_range(TAPS - 1):
        if at < longest:
            here = at < count
            total = tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
            for lag in tl.static_range(TAPS):  # pyright: ignore[reportGeneralTypeIssues]
                if lag <= at:
                    tap = tl.load(rows + (at - lag) * x_stride, mask=here[:, None] & inside, other=0.0)
                else:
                    before = position + (at - lag)
                    heard = here & (before >= 0)
                    tap = tl.load(
                        memory + (before % RING)[:, None] * CHANNELS, mask=heard[:, None] & inside, other=0.0
                    )  # fmt: skip
                factor = tl.load(weight + (TAPS - 1 - lag) * weight_tap, mask=inside, other=0.0)
                total += tap.to(tl.float32) * factor.to(tl.float32)
            _store(out + (start + at)[:, None] * CHANNELS + c, total, here[:, None] & inside)

    tl.debug_barrier()  # a sequence of two rows overwrites what its first one has just read
    for back in tl.static_range(1, RING + 1):
        if back <= longest:
            kept = (back <= count) & (slot > 0)
            place = memory + ((position + count - back) % RING)[:, None] * CHANNELS
            row = tl.load(rows + (count - back)[:, None] * x_stride, mask=kept[:, None] & inside, other=0.0)
            tl.store(place, row, mask=kept[:, None] & inside)


@jit
def _body(
    x,
    weight,
    bias,
    query_start,
    out,
    x_stride,
    weight_tap,
    row,
    known,
    sequences,
    c,
    inside,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
):
    """Rows that have K - 1 others of their sequence before them."""
    low, high = tl.zeros_like(row), tl.zeros_like(row) + sequences  # query_start[low] <= row < query_start[high]
    width = sequences
    while width > 1:
        middle = (low + high) // 2
        beyond = tl.load(query_start + middle) > row
        low, high = tl.where(beyond, low, middle), tl.where(beyond, middle, high)
        width = (width + 1) // 2
    start = tl.load(query_start + low)
    here = (known & (row - start >= TAPS - 1))[:, None] & inside

    total = tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    for lag in tl.static_range(TAPS):
        tap = tl.load(x + (row - lag).to(tl.int64)[:, None] * x_stride + c, mask=here, other=0.0)
        factor = tl.load(weight + (TAPS - 1 - lag) * weight_tap, mask=inside, other=0.0)
        total += tap.to(tl.float32) * factor.to(tl.float32)
    _store(out + row.to(tl.int64)[:, None] * CHANNELS + c, total, here)


@jit
def _store(place, total, mask):
    silu = total / (1.0 + tl.exp2(total * -1.4426950408889634))
    tl.store(place, silu.to(place.dtype.element_ty), mask=mask)
