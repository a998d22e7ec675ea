"""One token of Mamba-2 for each sequence, with lazy write-back of the state.

A slot holds the state at the start of a window and the rows (x, B, dt) that came since. A step reads both and appends
its row; only the step that closes the window writes the state: with V rows it is written once in V tokens. V = 1 is
the plain step. Taking rows back inside a window is a change of its length.

    h = exp(sum_i a_i) h_start + sum_i exp(sum_{j > i} a_j) dt_i x_i (outer) B_i,   a_i = dt_i A,   y = h C + D x

The new state is only formed where it is written. Elsewhere y comes from the old one and from the rows of the window:

    y = exp(sum_i a_i) h_start C + sum_i exp(sum_{j > i} a_j) dt_i (B_i C) x_i + D x

Source: spec 2.2; the state-space duality of arXiv 2405.21060, section 6.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.jit import jit, kernels_run, tl, triton


class Tile(NamedTuple):
    """What one program does: channels of a head, and its warps."""

    channels: int
    warps: int


TILE = Tile(64, 4)


def ssm_step(
    xbc: Tensor,
    dt: Tensor,
    a: Tensor,
    d: Tensor,
    dt_bias: Tensor,
    state: Tensor,
    window_xb: Tensor,
    window_dt: Tensor,
    state_slot: Tensor,
    window_len: Tensor,
    flush: Tensor,
) -> Tensor:
    """Writes `state` where a row flushes, and the windows where it does not; slot 0 never.

    Args:
        xbc: [S, H P + 2 G N] after the convolution: x, B, C.
        dt: [S, H] before bias and softplus.
        a, d, dt_bias: [H] f32; a is negative.
        state: [slots, H, P, N] f32 at the start of the window.
        window_xb: [slots, V, H P + G N] of the dtype of xbc.
        window_dt: [slots, V, H] f32, after softplus.
        state_slot: [S].
        window_len: [S] rows in the window before this one, below V.
        flush: [S] bool, whether the state is written and the window begins anew.

    Returns:
        y [S, H P] of the dtype of xbc.
    """
    op = ssm_step_kernel if _fits(xbc, state) else ssm_step_ref
    return op(xbc, dt, a, d, dt_bias, state, window_xb, window_dt, state_slot, window_len, flush)


def ssm_step_ref(
    xbc: Tensor,
    dt: Tensor,
    a: Tensor,
    d: Tensor,
    dt_bias: Tensor,
    state: Tensor,
    window_xb: Tensor,
    window_dt: Tensor,
    state_slot: Tensor,
    window_len: Tensor,
    flush: Tensor,
) -> Tensor:
    heads, width, size = state.shape[1:]
    inner, rows = heads * width, window_dt.shape[1]
    step_dt = F.softplus(dt.float() + dt_bias)  # [S, H]
    xb, c = xbc.split([window_xb.shape[-1], xbc.shape[-1] - window_xb.shape[-1]], dim=-1)

    at = torch.arange(rows, device=xbc.device)[None, :, None]  # [1, V, 1]
    filled, newest = at < window_len[:, None, None], at == window_len[:, None, None]
    all_xb = xb[:, None].where(newest, window_xb[state_slot].where(filled, 0.0)).float()
    all_dt = step_dt[:, None].where(newest, window_dt[state_slot].where(filled, 0.0))  # [S, V, H]

    x = all_xb[..., :inner].unflatten(-1, (heads, width))  # [S, V, H, P]
    b = _per_head(all_xb[..., inner:], heads, size)  # [S, V, H, N]
    log_decay = all_dt * a
    to_end = log_decay.flip(1).cumsum(1).flip(1) - log_decay  # of the rows after each
    added = torch.einsum("svh,svhp,svhn->shpn", all_dt * to_end.exp(), x, b)
    new = log_decay.sum(1).exp()[..., None, None] * state[state_slot] + added

    now = x.gather(1, window_len[:, None, None, None].expand(-1, 1, heads, width))[:, 0]
    y = torch.einsum("shpn,shn->shp", new, _per_head(c.float(), heads, size)) + d[:, None] * now
    _write(state, state_slot, flush & (state_slot > 0), new)
    _append(window_xb, state_slot, window_len, ~flush & (state_slot > 0), xb)
    _append(window_dt, state_slot, window_len, ~flush & (state_slot > 0), step_dt)
    return y.flatten(1).to(xbc.dtype)


def _per_head(grouped: Tensor, heads: int, size: int) -> Tensor:
    """[..., G N] into [..., H, N]: consecutive heads share a group."""
    grouped = grouped.unflatten(-1, (-1, size))
    return grouped.repeat_interleave(heads // grouped.shape[-2], dim=-2)


def _write(pool: Tensor, slot: Tensor, kept: Tensor, values: Tensor) -> None:
    slot = slot.where(kept, 0)
    pool[slot] = values.where(kept.view(-1, *[1] * (values.ndim - 1)), pool[0])


def _append(pool: Tensor, slot: Tensor, at: Tensor, kept: Tensor, values: Tensor) -> None:
    slot, at = slot.where(kept, 0), at.where(kept, 0)
    pool[slot, at] = values.where(kept[:, None], pool[0, 0])


def ssm_step_kernel(
    xbc: Tensor,
    dt: Tensor,
    a: Tensor,
    d: Tensor,
    dt_bias: Tensor,
    state: Tensor,
    window_xb: Tensor,
    window_dt: Tensor,
    state_slot: Tensor,
    window_len: Tensor,
    flush: Tensor,
    *,
    tile: Tile | None = None,
) -> Tensor:
    """P and N are powers of two; rows of xbc and dt may lie apart, the pools may not."""
    heads, width, size = state.shape[1:]
    rows, inner = window_dt.shape[1], heads * width
    y = xbc.new_empty(len(xbc), inner)
    if not len(xbc):
        return y
    tile = tile or TILE
    block = min(tile.channels, width)
    _ssm_step[(heads * (width // block), len(xbc))](
        xbc, dt, a, d, dt_bias, state, window_xb, window_dt, state_slot, window_len, flush, y,
        xbc.stride(0), dt.stride(0),
        HEADS=heads, WIDTH=width, SIZE=size, GROUPS=(window_xb.shape[2] - inner) // size, ROWS=rows,
        ROWS_PADDED=triton.next_power_of_2(rows), BLOCK=block, num_warps=tile.warps,
    )  # fmt: skip
    return y


def _fits(xbc: Tensor, state: Tensor) -> bool:
    powers = all(size & (size - 1) == 0 for size in state.shape[2:])
    return kernels_run(xbc) and xbc.dtype == torch.bfloat16 and state.dtype == torch.float32 and powers


@jit
def _ssm_step(
    xbc,
    dt,
    a,
    d,
    dt_bias,
    state,
    window_xb,
    window_dt,
    state_slot,
    window_len,
    flush,
    y,
    xbc_stride,
    dt_stride,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    ROWS_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One sequence and BLOCK channels of one head; heads of a sequence are neighbours and find its B in the cache."""
    PARTS: tl.constexpr = WIDTH // BLOCK
    INNER: tl.constexpr = HEADS * WIDTH
    XB: tl.constexpr = INNER + GROUPS * SIZE
    head, part, row = tl.program_id(0) // PARTS, tl.program_id(0) % PARTS, tl.program_id(1)
    first = head * WIDTH + part * BLOCK
    p, n = tl.arange(0, BLOCK), tl.arange(0, SIZE)
    channel = first + p  # of H P
    in_group = head // (HEADS // GROUPS) * SIZE + n  # of G N

    # Everything is asked for before anything is used: the first barrier then waits once for all of it.
    slot = tl.load(state_slot + row).to(tl.int64)
    held = tl.load(window_len + row).to(tl.int32)
    written = tl.load(flush + row) & (slot > 0)
    raw_step = tl.load(dt + row * dt_stride + head).to(tl.float32)
    rate, skip = tl.load(a + head), tl.load(d + head)
    place = state + (slot * INNER + first) * SIZE + (p[:, None] * SIZE + n[None, :])
    h = tl.load(place)  # [P, N], nearly all of the bytes

    i = tl.arange(0, ROWS_PADDED)
    old = i < held
    past_xb, past_dt = window_xb + slot * (ROWS * XB), window_dt + slot * (ROWS * HEADS) + head
    past = past_xb + i[:, None] * XB
    xs = tl.load(past + channel[None, :], mask=old[:, None], other=0.0)  # [V, P]
    bs = tl.load(past + INNER + in_group[None, :], mask=old[:, None], other=0.0)  # [V, N]
    steps = tl.load(past_dt + i * HEADS, mask=old, other=0.0)
    next_steps = tl.load(past_dt + (i + 1) * HEADS, mask=i + 1 < held, other=0.0)

    new = xbc + row * xbc_stride
    x = tl.load(new + channel).to(tl.float32)
    b = tl.load(new + INNER + in_group).to(tl.float32)
    c = tl.load(new + XB + in_group).to(tl.float32)
    step = _softplus(raw_step + tl.load(dt_bias + head))

    # Time behind each row: the steps of the rows after it, this one's last. Sums of positive numbers, no differences.
    behind = tl.cumsum(next_steps, reverse=True) + step
    decay = tl.exp(rate * (tl.sum(steps) + step))
    weights = steps * tl.exp(rate * behind) * tl.sum(bs.to(tl.float32) * c[None, :], 1)  # [V]
    out = decay * tl.sum(h * c[None, :], 1) + tl.sum(weights[:, None] * xs.to(tl.float32), 0)
    out += (step * tl.sum(b * c) + skip) * x
    tl.store(y + row * INNER + channel, out.to(y.dtype.element_ty))

    if written:
        h = decay * h + (step * x)[:, None] * b[None, :]
        since, at = step, held
        while at > 0:
            at -= 1
            its_step = tl.load(past_dt + at * HEADS)
            its_x = tl.load(past_xb + at * XB + channel).to(tl.float32)
            its_b = tl.load(past_xb + at * XB + INNER + in_group).to(tl.float32)
            h += (its_step * tl.exp(rate * since) * its_x)[:, None] * its_b[None, :]
            since += its_step
        tl.store(place, h)
    elif slot > 0:
        own = past_xb + held * XB
        tl.store(own + channel, x.to(window_xb.dtype.element_ty))
        if part == 0:
            tl.store(past_dt + held * HEADS, step)
            if head % (HEADS // GROUPS) == 0:
                tl.store(own + INNER + in_group, b.to(window_xb.dtype.element_ty))


@jit
def _softplus(x):
    """Exact to rounding for very negative x too, where the library's fast logarithm is not: log1p by atanh's series."""
    e = tl.exp(-tl.abs(x))
    t = e / (2.0 + e)  # at most 1/3
    t2 = t * t
    series = 1 / 13 + t2 * (1 / 15)
    series = 1 / 9 + t2 * (1 / 11 + t2 * series)
    series = 1 / 5 + t2 * (1 / 7 + t2 * series)
    return tl.maximum(x, 0.0) + 2.0 * t * (1.0 + t2 * (1 / 3 + t2 * series))
