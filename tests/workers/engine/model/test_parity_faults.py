"""Mistakes that others made, or that we might: each must show in the parity table (spec 11)."""

from functools import cache, partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.workers.engine import parity
from workers.engine.features.grids import Grid
from workers.engine.kernels.causal_conv import causal_conv
from workers.engine.kernels.gated_norm import gated_norm
from workers.engine.kernels.relative_attention import relative_attention
from workers.engine.kernels.route import Routing, route
from workers.engine.kernels.ssm_scan import ssm_scan
from workers.engine.model import conformer, mamba, moe, omni, sound, subsampling, vision

SINUSOIDS = sound.sinusoids
TANH = SimpleNamespace(gelu=partial(F.gelu, approximate="tanh"))


def stretched_positions(self: vision.Vision, grid: Grid) -> Tensor:
    table = self.positions.permute(2, 0, 1)[None]
    table = F.interpolate(table, size=(grid.rows, grid.columns), mode="bilinear", align_corners=False)
    return table[0].flatten(1).t()


def columns_first(features: Tensor, grids: list[Grid]) -> Tensor:
    parts = []
    for picture, grid in zip(features.split([grid.patches for grid in grids]), grids, strict=True):
        square = picture.view(grid.rows // 2, 2, grid.columns // 2, 2, -1)
        parts.append(square.permute(0, 2, 3, 1, 4).reshape(grid.tokens, -1))
    return torch.cat(parts)


def bias_in_the_weights(x: Tensor, weight: Tensor, bias: Tensor, *, top_k: int, scale: float, **_: bool) -> Routing:
    best = ((x @ weight.t()).sigmoid() + bias).topk(top_k)
    return Routing(best.indices, best.values / best.values.sum(-1, keepdim=True) * scale)


def late_gate(x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    grouped = x.unflatten(-1, (groups, -1))
    return weight * (grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + eps)).flatten(-2) * F.silu(gate)


def one_group(x: Tensor, gate: Tensor, weight: Tensor, groups: int, *rest: Any) -> Tensor:
    return gated_norm(x, gate, weight, 1, *rest)


def least_step(xbc: Tensor, dt: Tensor, a: Tensor, d: Tensor, dt_bias: Tensor, *rest: Any, **sizes: int) -> Tensor:
    """The clamp of transformers' port, undone behind the softplus."""
    step = F.softplus(dt + dt_bias).clamp_min(0.02)
    return ssm_scan(xbc, step + torch.log(-torch.expm1(-step)), a, d, torch.zeros_like(dt_bias), *rest, **sizes)


def forgetful(x: Tensor, weight: Tensor, bias: Tensor, ring: Tensor, *rest: Tensor) -> Tensor:
    return causal_conv(x, weight, bias, torch.zeros_like(ring), *rest)


def all_ears(queries: Tensor, *terms: Tensor) -> Tensor:
    return relative_attention(queries, *terms[:-1], torch.full_like(terms[-1], queries.shape[1]))


FAULTS: dict[str, tuple[ModuleType | type, str, Any, str]] = {
    "positions stretched": (vision.Vision, "position_rows", stretched_positions, "image: features"),
    "columns before rows": (omni, "pixel_shuffle", columns_first, "image: features"),
    "tanh GELU": (vision, "F", TANH, "video: features"),
    "router bias in the weights": (moe, "route", bias_in_the_weights, "text: logits, whole"),
    "no router bias": (moe, "route", lambda x, w, b, **k: route(x, w, 0 * b, **k), "text: logits, whole"),
    "gate behind the norm": (mamba, "gated_norm", late_gate, "text: logits, whole"),
    "norm over all": (mamba, "gated_norm", one_group, "text: logits, whole"),
    "a least time step": (mamba, "ssm_scan", least_step, "text: logits, whole"),
    "inputs forgotten": (mamba, "causal_conv", forgetful, "text: logits, prefill one"),
    "pads not masked": (subsampling, "_masked", lambda x, valid: x + 0.01, "sound: features"),
    "pads heard": (conformer, "relative_attention", all_ears, "sound: features"),
    "distances reversed": (sound, "sinusoids", lambda *t: SINUSOIDS(*t).flip(0), "sound: features"),
    "another eps": (conformer, "EPS", 1e-3, "sound: features"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_shows(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, wrong, what = FAULTS[fault]
    [check] = (check for check in parity.CHECKS if check.what.startswith(what))
    monkeypatch.setattr(owner, name, wrong)
    monkeypatch.setattr(parity.oracle, "ours", cache(parity.oracle.ours.__wrapped__))  # loaded with the fault
    assert check.run() > check.tolerance
