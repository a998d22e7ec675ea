"""Mamba-2 over the tokens of many sequences, in chunks: matrix products inside a chunk, a recurrence between chunks.

With a_i = dt_i A and L[i, j] = exp(sum_{j < k <= i} a_k) for j <= i, else 0, a chunk gives

    y_i = sum_j L[i, j] (C_i B_j) dt_j x_j  +  exp(sum_{k <= i} a_k) C_i h  +  D x_i
    h'  = exp(sum_k a_k) h  +  sum_j exp(sum_{k > j} a_k) dt_j x_j (outer) B_j

The result does not depend on the size of a chunk, nor on where a prompt was cut: the kernel takes tiles of its own.

Source: spec 2.2; arXiv 2405.21060, section 6.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.ssm_scan_kernel import fits, ssm_scan_kernel


def ssm_scan(
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
    chunk: int,
    longest_query: int,
) -> Tensor:
    """Reads and writes `state` of each sequence, which must have an empty window; slot 0 is not written.

    Args:
        xbc: [T, H P + 2 G N] after the convolution: x, B, C.
        dt: [T, H] before bias and softplus.
        a, d, dt_bias: [H] f32; a is negative.
        state: [slots, H, P, N] f32.
        query_start: [S + 1], the first is the row 0 of xbc, the last T.
        state_slot: [S].
        has_initial_state: [S] bool; false begins with zeros.
        longest_query: at least as many as the tokens of any sequence.

    Returns:
        y [T, H P] of the dtype of xbc.
    """
    tensors = (xbc, dt, a, d, dt_bias, state, query_start, state_slot, has_initial_state)
    if fits(xbc, dt, state):
        return ssm_scan_kernel(*tensors, groups=groups, longest_query=longest_query)
    return ssm_scan_ref(*tensors, groups=groups, chunk=chunk, longest_query=longest_query)


def ssm_scan_ref(
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
    chunk: int,
    longest_query: int,
) -> Tensor:
    heads, width, size = state.shape[1:]
    chunks = -(-longest_query // chunk)
    rows = query_start[:-1, None] + torch.arange(chunks * chunk, device=xbc.device)  # [S, Q]
    valid = (rows < query_start[1:, None])[..., None]
    rows = rows.clamp_max(len(xbc) - 1)
    # Padding has no time step: it neither decays the state nor adds to it.
    steps = F.softplus(dt.float() + dt_bias)[rows].where(valid, 0.0)
    padded = xbc[rows].where(valid, 0.0).float()

    by_chunk = {"chunks": chunks, "groups": groups}
    x, b, c = padded.split([heads * width, groups * size, groups * size], dim=-1)
    x = x.unflatten(-1, (heads, width))
    inputs = _chunked(x * steps[..., None], **by_chunk)  # [S, c, g, r, l, P]
    decays = _chunked((steps * a)[..., None], **by_chunk)[..., 0]  # [S, c, g, r, l]
    b = _chunked(b.unflatten(-1, (groups, size)), **by_chunk)  # [S, c, g, 1, l, N]
    c = _chunked(c.unflatten(-1, (groups, size)), **by_chunk)

    y = (c @ b.transpose(-1, -2) * _decay_between(decays)) @ inputs
    to_end = decays.flip(-1).cumsum(-1).flip(-1) - decays
    added = (inputs * to_end.exp()[..., None]).transpose(-1, -2) @ b  # [S, c, g, r, P, N]
    from_start, over = decays.cumsum(-1).exp()[..., None], decays.sum(-1).exp()[..., None, None]
    h = state[state_slot].where(has_initial_state[:, None, None, None], 0.0).unflatten(1, (groups, -1))
    for at in range(chunks):
        y[:, at] += from_start[:, at] * (c[:, at] @ h.transpose(-1, -2))
        h = over[:, at] * h + added[:, at]

    kept = state_slot > 0
    state[state_slot.where(kept, 0)] = h.flatten(1, 2).where(kept[:, None, None, None], state[0])
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(*rows.shape, heads, width) + d[:, None] * x
    return _by_token(y.flatten(-2), query_start, len(xbc)).to(xbc.dtype)


def _chunked(per_head: Tensor, chunks: int, groups: int) -> Tensor:
    """[S, c l, heads, width] into [S, c, g, heads / g, l, width]."""
    per_head = per_head.unflatten(1, (chunks, -1)).unflatten(3, (groups, -1))
    return per_head.permute(0, 1, 3, 4, 2, 5)


def _decay_between(decays: Tensor) -> Tensor:
    """[..., l] into L [..., l, l]. Sums run from j on, so that none is a difference of two large ones."""
    length = decays.shape[-1]
    after = torch.ones(length, length, dtype=torch.bool, device=decays.device).tril(-1)
    sums = decays[..., None].expand(*decays.shape, length).where(after, 0.0).cumsum(-2)
    return sums.exp().tril()


def _by_token(padded: Tensor, query_start: Tensor, tokens: int) -> Tensor:
    """[S, Q, width] into [T, width]."""
    rows = torch.arange(tokens, device=padded.device)
    sequence = torch.searchsorted(query_start, rows, right=True) - 1
    return padded[sequence, rows - query_start[sequence]]
