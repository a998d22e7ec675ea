"""The chosen experts of every token: up, squared relu, down, weighted sum.

Source: spec 2.3.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.by_expert import by_expert
from workers.engine.kernels.grouped_mm import grouped_down, grouped_up
from workers.engine.kernels.jit import kernels_run
from workers.engine.kernels.route import Routing
from workers.engine.kernels.weighted_sum import weighted_sum


def experts(x: Tensor, routing: Routing, up: Tensor, down: Tensor, shared: Tensor | None = None) -> Tensor:
    """Weighted sum over the chosen experts.

    Args:
        x: [T, D].
        routing: [T, k] experts and their weights.
        up: [E, F, D] of the dtype of x, D contiguous.
        down: [E, D, F], F contiguous.
        shared: [T, D], added to the sum.

    Returns:
        [T, D] of the dtype of x; added up in fp32.
    """
    if not (kernels_run(x) and x.dtype == torch.bfloat16):
        return experts_ref(x, routing, up, down, shared)
    return experts_kernel(x, routing, up, down, shared)


def experts_ref(x: Tensor, routing: Routing, up: Tensor, down: Tensor, shared: Tensor | None = None) -> Tensor:
    """Every expert sees every token; those that were not chosen weigh nothing."""
    hidden = F.relu(x @ up.transpose(1, 2)).square()  # [E, T, F]
    return share(hidden @ down.transpose(1, 2), routing, shared).to(x.dtype)


def share(out: Tensor, routing: Routing, shared: Tensor | None) -> Tensor:
    """[T, D] f32 from what every expert makes of every token, [E, T, D]."""
    weights = torch.zeros(out.shape[1], len(out), device=out.device)
    weights = weights.scatter(1, routing.experts.long(), routing.weights)
    total = torch.einsum("etd,te->td", out.float(), weights)
    return total if shared is None else total + shared.float()


def experts_kernel(x: Tensor, routing: Routing, up: Tensor, down: Tensor, shared: Tensor | None = None) -> Tensor:
    pairs = by_expert(routing.experts, len(up))
    hidden = grouped_up(x, up, pairs, routing.experts.shape[1])
    return weighted_sum(grouped_down(hidden, down, pairs, x.dtype), pairs.place, routing.weights, shared)
