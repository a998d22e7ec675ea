"""The scan as one would write it in torch with bf16: products of bf16 rounded to bf16, decays and states in fp32."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F


def scan_in_bf16(
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
    chunk: int = 128,
) -> Tensor:
    """As `ssm_scan`, without thought of padding; reads its tables on the host."""
    heads, width, size = state.shape[1:]
    y = torch.empty(len(xbc), heads * width, dtype=xbc.dtype, device=xbc.device)
    bounds = list(pairwise(query_start.tolist()))
    for (first, end), slot, known in zip(bounds, state_slot.tolist(), has_initial_state.tolist(), strict=True):
        h = state[slot] if known else torch.zeros_like(state[slot])
        for at in range(first, end, chunk):
            rows = slice(at, min(at + chunk, end))
            x, b, c = xbc[rows].split([heads * width, groups * size, groups * size], dim=-1)
            x = x.unflatten(-1, (heads, width)).transpose(0, 1)  # [H, l, P]
            b, c = (_per_head(part, heads, size) for part in (b, c))
            step = F.softplus(dt[rows].float() + dt_bias).t()  # [H, l]
            upto = (step * a[:, None]).cumsum(-1)
            decay = (upto[:, :, None] - upto[:, None]).tril().exp().tril().to(xbc.dtype)
            out = (c @ b.transpose(1, 2) * decay) @ (x * step[..., None]).to(xbc.dtype)
            out = out + c @ h.to(xbc.dtype).transpose(1, 2) * upto.exp()[..., None].to(xbc.dtype)
            y[rows] = (out + d[:, None, None].to(xbc.dtype) * x).transpose(0, 1).flatten(1)
            weight = step * (upto[:, -1:] - upto).exp()
            h = upto[:, -1].exp()[:, None, None] * h + (x * weight[..., None]).to(xbc.dtype).transpose(1, 2) @ b
        state[slot] = h
    return y


def _per_head(grouped: Tensor, heads: int, size: int) -> Tensor:
    """[l, G N] into [H, l, N]."""
    grouped = grouped.unflatten(-1, (-1, size))
    return grouped.repeat_interleave(heads // grouped.shape[1], dim=1).transpose(0, 1)


def error(got: Tensor, exact: Tensor) -> float:
    """Relative, over all."""
    return ((got.float() - exact.float()).norm() / exact.float().norm()).item()
