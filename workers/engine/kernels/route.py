"""Which experts see a token, and with what weight.

The correction bias moves the choice only, never the weights. Both dot product and scores are fp32: in bf16 other
experts would be chosen.

Source: spec 2.3.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Routing(NamedTuple):
    """
    Attributes:
        experts: [T, k] int64.
        weights: [T, k] f32.
    """

    experts: Tensor
    weights: Tensor


def route(x: Tensor, weight: Tensor, bias: Tensor, *, top_k: int, scale: float, normalise: bool) -> Routing:
    """The best `top_k` experts of each token.

    Args:
        x: [T, D].
        weight: [E, D] of the dtype of x.
        bias: [E] f32, added for the choice.
        scale: of the weights.
        normalise: whether the weights of a token sum up to `scale`.
    """
    # Tensor cores multiply bf16 exactly and add in fp32; the result must not pass through bf16.
    exact = x.is_cuda and x.dtype == torch.bfloat16
    logits = torch.mm(x, weight.t(), out_dtype=torch.float32) if exact else x.float() @ weight.float().t()
    return choose_ref(logits, bias, top_k=top_k, scale=scale, normalise=normalise)


def route_ref(x: Tensor, weight: Tensor, bias: Tensor, *, top_k: int, scale: float, normalise: bool) -> Routing:
    return choose_ref(x.float() @ weight.float().t(), bias, top_k=top_k, scale=scale, normalise=normalise)


def choose_ref(logits: Tensor, bias: Tensor, *, top_k: int, scale: float, normalise: bool) -> Routing:
    """From [T, E] f32."""
    scores = logits.sigmoid()
    experts = (scores + bias).topk(top_k, sorted=False).indices
    weights = scores.gather(1, experts)
    if normalise:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return Routing(experts, weights * scale)
