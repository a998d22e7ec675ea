"""One conformer block: half a feed-forward, attention with relative positions, a convolution, the other half.

Source: spec 4.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.checkpoint.weights import Weights
from workers.engine.config import SoundConfig
from workers.engine.kernels.relative_attention import relative_attention
from workers.engine.model.linear import Dense, Weight, linear
from workers.engine.model.norm import LayerNorm

EPS = 1e-5  # of the layer norms and of the batch norm


@dataclass(frozen=True, slots=True)
class FeedForward:
    linear1: Weight
    linear2: Weight

    @classmethod
    def load(cls, weights: Weights, name: str) -> "FeedForward":
        return cls(weights.linear(f"{name}.linear1"), weights.linear(f"{name}.linear2"))

    def __call__(self, x: Tensor) -> Tensor:
        return linear(F.silu(linear(x, self.linear1)), self.linear2)


@dataclass(frozen=True, slots=True)
class RelativeAttention:
    """
    Attributes:
        bias_u, bias_v: [H, W], added to the queries that meet keys, and distances.
    """

    qkv: Weight
    relative: Weight
    out: Weight
    bias_u: Tensor
    bias_v: Tensor

    @classmethod
    def load(cls, weights: Weights, name: str) -> "RelativeAttention":
        return cls(
            weights.merged([f"{name}.{one}_proj" for one in "qkv"]),
            weights.linear(f"{name}.relative_k_proj"),
            weights.linear(f"{name}.o_proj"),
            weights.tensor(f"{name}.bias_u"),
            weights.tensor(f"{name}.bias_v"),
        )

    def __call__(self, x: Tensor, distances: Tensor, valid: Tensor) -> Tensor:
        heads, width = self.bias_u.shape
        queries, keys, values = linear(x, self.qkv).unflatten(-1, (3, heads, width)).unbind(2)
        relative = linear(distances, self.relative).unflatten(-1, (heads, width))
        out = relative_attention(queries, keys, values, relative, self.bias_u, self.bias_v, valid)
        return linear(out.flatten(2), self.out)


@dataclass(frozen=True, slots=True)
class Convolution:
    """Pointwise and gate, depthwise over time, batch norm with the statistics of training, pointwise.

    Attributes:
        depthwise: [width, 1, taps].
        scale, shift: [width] of the batch norm, its statistics folded in.
    """

    into: Weight
    depthwise: Tensor
    scale: Tensor
    shift: Tensor
    out: Weight

    @classmethod
    def load(cls, weights: Weights, name: str) -> "Convolution":
        weight, bias, mean, variance = (
            weights.tensor(f"{name}.norm.{one}", torch.float32)
            for one in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight * torch.rsqrt(variance + EPS)
        return cls(
            _pointwise(weights, f"{name}.pointwise_conv1.weight"),
            weights.tensor(f"{name}.depthwise_conv.weight"),
            scale,
            bias - mean * scale,
            _pointwise(weights, f"{name}.pointwise_conv2.weight"),
        )

    def __call__(self, x: Tensor, valid: Tensor) -> Tensor:
        inside = torch.arange(x.shape[1], device=x.device) < valid[:, None]
        x = F.glu(linear(x, self.into)).where(inside[..., None], 0.0)
        taps = self.depthwise.shape[-1]
        mixed = F.conv1d(x.transpose(1, 2), self.depthwise, padding=taps // 2, groups=x.shape[-1]).transpose(1, 2)
        normed = (mixed.float() * self.scale + self.shift).to(x.dtype)
        return linear(F.silu(normed), self.out)


@dataclass(frozen=True, slots=True)
class ConformerBlock:
    norm_feed_forward1: LayerNorm
    feed_forward1: FeedForward
    norm_self_att: LayerNorm
    self_attn: RelativeAttention
    norm_conv: LayerNorm
    conv: Convolution
    norm_feed_forward2: LayerNorm
    feed_forward2: FeedForward
    norm_out: LayerNorm

    @classmethod
    def load(cls, weights: Weights, config: SoundConfig, name: str) -> "ConformerBlock":
        norms = ("norm_feed_forward1", "norm_self_att", "norm_conv", "norm_feed_forward2", "norm_out")
        return cls(
            feed_forward1=FeedForward.load(weights, f"{name}.feed_forward1"),
            self_attn=RelativeAttention.load(weights, f"{name}.self_attn"),
            conv=Convolution.load(weights, f"{name}.conv"),
            feed_forward2=FeedForward.load(weights, f"{name}.feed_forward2"),
            **{norm: LayerNorm.load(weights, f"{name}.{norm}", EPS) for norm in norms},
        )

    def __call__(self, x: Tensor, distances: Tensor, valid: Tensor) -> Tensor:
        """
        Args:
            x: [N, T, width].
            distances: [2 T - 1, width].
            valid: [N] frames of each clip.
        """
        x = x + 0.5 * self.feed_forward1(self.norm_feed_forward1(x))
        x = x + self.self_attn(self.norm_self_att(x), distances, valid)
        x = x + self.conv(self.norm_conv(x), valid)
        x = x + 0.5 * self.feed_forward2(self.norm_feed_forward2(x))
        return self.norm_out(x)


def _pointwise(weights: Weights, name: str) -> Dense:
    """A convolution of one tap is a linear layer."""
    return Dense(weights.tensor(name).squeeze(-1))
