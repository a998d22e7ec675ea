"""The scan of `ssm_scan.py`: a program walks one head through one sequence, its state in registers.

Tiles of l rows run from the sequence's own start and one after another, so that no state but the first and the last
passes through memory, and what a sequence gets does not depend on its neighbours. In a tile

    S = cumsum(dt A)      scores_ij = (C_i B_j) exp(S_i - S_j) dt_j,  j <= i        [l, l]
                          y         = scores x + exp(S) C h^T + D x                 [l, P]
                          h         <- exp(S_l) h + (exp(S_l - S) dt x)^T B         [P, N]

Products take operands of the activations' dtype and add in fp32; decays and states are fp32. A small kernel in front
makes S and, with dt in it, S_j - log dt_j, for all tiles at once, in powers of two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.kernels.jit import jit, kernels_run, tl, triton

# Work inside a tile grows with the square of its rows, and a longer one would save nothing that passes through memory.
# Two programs of four warps share a processor: one multiplies while the other waits.
TILE, WARPS, STAGES = 64, 4, 2
SOME = 16  # heads whose decays a program sums


def ssm_scan_kernel(
    xbc: Tensor,
    dt: Tensor,
    a: Tensor,
    d: Tensor,
    dt_bias: Tensor,
    state: Tensor,
    query_start: Tensor,
    state_slot: Tensor,
    has_initial_state: Tensor,
    *,
    groups: int,
    longest_query: int,
    tile: int = TILE,
    warps: int = WARPS,
    stages: int = STAGES,
) -> Tensor:
    """As `ssm_scan`, with tiles for chunks. Rows of `xbc` and `dt` may be strided; P and N are powers of two."""
    heads, width, size = state.shape[1:]
    sequences = len(state_slot)
    y = torch.empty(len(xbc), heads * width, dtype=xbc.dtype, device=xbc.device)
    # The tiles of a sequence lie from place `first row // tile + sequence` on: no two meet, and nobody has to count.
    places = len(xbc) // tile + sequences
    decay, lag = torch.empty(2, places, heads, tile, device=xbc.device)
    _decays[triton.cdiv(longest_query, tile), sequences, triton.cdiv(heads, SOME)](
        dt, a, dt_bias, query_start, decay, lag, dt.stride(0), HEADS=heads, SOME=SOME, TILE=tile
    )
    _scan[heads, sequences](
        xbc, decay, lag, d, state, query_start, state_slot, has_initial_state, y,
        STRIDE=xbc.stride(0), HEADS=heads, WIDTH=width, SIZE=size, GROUPS=groups, TILE=tile,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return y


def fits(xbc: Tensor, dt: Tensor, state: Tensor) -> bool:
    """Whether the kernel runs on these tensors; products of bf16 need a card, the interpreter gets them wrong."""
    sizes = all(16 <= size <= 128 and size & (size - 1) == 0 for size in state.shape[2:])
    dtypes = (xbc.dtype, dt.dtype, state.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    dense = xbc.stride(1) == dt.stride(1) == 1 and state.is_contiguous()
    return kernels_run(xbc) and sizes and dtypes and dense


# The tables of a step come as slices: where they begin must not decide about compiling.
@jit(do_not_specialize_on_alignment=["query_start"])
def _decays(
    dt,
    a,
    dt_bias,
    query_start,
    decay,
    lag,
    dt_stride,
    HEADS: tl.constexpr,
    SOME: tl.constexpr,
    TILE: tl.constexpr,
):
    tile, sequence = tl.program_id(0), tl.program_id(1)
    first = tl.load(query_start + sequence).to(tl.int64)
    rows = (tl.load(query_start + sequence + 1) - first).to(tl.int32) - tile * TILE
    if rows <= 0:
        return
    line, head = tl.arange(0, TILE), tl.program_id(2) * SOME + tl.arange(0, SOME)
    valid = (line < rows)[:, None] & (head < HEADS)[None, :]
    bias = tl.load(dt_bias + head, mask=head < HEADS, other=0.0)
    rate = tl.load(a + head, mask=head < HEADS, other=0.0) * 1.4426950408889634  # powers of two are what the card has
    dt += (first + tile * TILE) * dt_stride
    raw = tl.load(dt + line[:, None] * dt_stride + head[None, :], mask=valid, other=0.0)
    # Rows behind the last have no time step: they neither decay the state nor add to it.
    step = tl.where(valid, _softplus(raw.to(tl.float32) + bias[None, :]), 0.0)
    upto = tl.cumsum(step * rate[None, :], 0)
    place = first // TILE + sequence + tile
    at = (place * HEADS + head[None, :]) * TILE + line[:, None]
    tl.store(decay + at, upto, mask=(head < HEADS)[None, :])
    since = tl.where(step > 0.0, upto - tl.log2(tl.maximum(step, 1e-37)), float("inf"))
    tl.store(lag + at, since, mask=(head < HEADS)[None, :])


@jit
def _softplus(x):
    # The series keeps the digits that 1 + exp(x) loses.
    e = tl.exp(tl.minimum(x, 20.0))
    near = tl.where(e < 0.01, e * (1.0 - e * (0.5 - e * 0.33333334)), tl.log(1.0 + e))
    return tl.where(x > 20.0, x, near)


@jit(
    do_not_specialize_on_alignment=["query_start", "state_slot", "has_initial_state"],
)
def _scan(
    xbc,
    decay,
    lag,
    d,
    state,
    query_start,
    state_slot,
    has_initial_state,
    y,
    STRIDE: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    TILE: tl.constexpr,
):
    # Heads of a group run side by side and share its B and C in L2.
    head, sequence = tl.program_id(0), tl.program_id(1)
    group = head // (HEADS // GROUPS)
    first = tl.load(query_start + sequence).to(tl.int64)
    rows = (tl.load(query_start + sequence + 1) - first).to(tl.int32)
    slot = tl.load(state_slot + sequence).to(tl.int64)
    known = tl.load(has_initial_state + sequence) != 0
    skip = tl.load(d + head)

    line, channel, column = tl.arange(0, TILE), tl.arange(0, WIDTH), tl.arange(0, SIZE)
    causal = line[:, None] >= line[None, :]
    x_at = line[:, None] * STRIDE + channel[None, :]
    b_at = line[:, None] * STRIDE + column[None, :]
    y_at = line[:, None] * (HEADS * WIDTH) + channel[None, :]
    state += (slot * HEADS + head) * (WIDTH * SIZE)
    state_at = channel[:, None] * SIZE + column[None, :]
    xbc += first * STRIDE
    y += first * (HEADS * WIDTH) + head * WIDTH
    place = first // TILE + sequence
    decay += (place * HEADS + head) * TILE
    lag += (place * HEADS + head) * TILE

    h = tl.load(state + state_at, mask=known, other=0.0)  # [P, N] f32
    for at in range(0, rows, TILE):
        left = rows - at
        valid = (line < left)[:, None]
        x = tl.load(xbc + head * WIDTH + x_at, mask=valid, other=0.0)  # [l, P]
        b = tl.load(xbc + HEADS * WIDTH + group * SIZE + b_at, mask=valid, other=0.0)  # [l, N]
        c = tl.load(xbc + (HEADS * WIDTH + GROUPS * SIZE) + group * SIZE + b_at, mask=valid, other=0.0)
        upto = tl.load(decay + line)
        since = tl.load(lag + line)
        over = tl.load(decay + (TILE - 1))

        scores = tl.dot(c, tl.trans(b), input_precision="ieee")
        scores *= tl.exp2(tl.where(causal, upto[:, None] - since[None, :], float("-inf")))
        out = tl.dot(c, tl.trans(h.to(x.dtype)), input_precision="ieee") * tl.exp2(upto)[:, None]
        out = tl.dot(scores.to(x.dtype), x, out, input_precision="ieee")
        out += skip * x.to(tl.float32)
        tl.store(y + y_at, out.to(x.dtype), mask=valid)

        added = (x.to(tl.float32) * tl.exp2(over - since)[:, None]).to(x.dtype)
        h = tl.dot(tl.trans(added), b, h * tl.exp2(over), input_precision="ieee")
        xbc += TILE * STRIDE
        y += TILE * HEADS * WIDTH
        decay += HEADS * TILE
        lag += HEADS * TILE
    tl.store(state + state_at, h, mask=slot > 0)
