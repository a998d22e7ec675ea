"""One token of Mamba-2 for each sequence, with lazy write-back of the state.

A slot holds the state at the start of a window and the rows (x, B, dt) that came since. A step reads both and appends
its row; only the step that closes the window writes the state: with V rows it is written once in V tokens. V = 1 is
the plain step. Taking rows back inside a window is a change of its length.

    h = exp(sum_i a_i) h_start + sum_i exp(sum_{j > i} a_j) dt_i x_i (outer) B_i,   a_i = dt_i A,   y = h C + D x

Source: spec 2.2; the state-space duality of arXiv 2405.21060, section 6.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


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
    return ssm_step_ref(xbc, dt, a, d, dt_bias, state, window_xb, window_dt, state_slot, window_len, flush)


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
