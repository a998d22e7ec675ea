"""What makes one frame of eight: three convolutions of stride 2, the later ones depthwise and then pointwise.

Source: spec 4.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.checkpoint.weights import Weights
from workers.engine.model.linear import Dense, linear

STRIDED = (0, 2, 5)  # places of the 3 x 3 convolutions; the numbers between are those of a list with its activations
POINTWISE = (None, 3, 6)


@dataclass(frozen=True, slots=True)
class Stage:
    """A convolution of stride 2, then in the later stages one of 1 x 1, then relu."""

    strided: Dense
    pointwise: Dense | None

    def __call__(self, x: Tensor, valid: Tensor) -> Tensor:
        """[N, channels, frames, bins] into half as many frames and bins; `valid` [N] counts those."""
        weight, bias = self.strided.weight, self.strided.bias
        groups = x.shape[1] // weight.shape[1]
        x = _masked(F.conv2d(x, weight, bias, stride=2, padding=1, groups=groups), valid)
        if self.pointwise is not None:
            x = _masked(F.conv2d(x, self.pointwise.weight, self.pointwise.bias), valid)
        return F.relu(x)


@dataclass(frozen=True, slots=True)
class Subsampling:
    stages: tuple[Stage, ...]
    linear: Dense

    @classmethod
    def load(cls, weights: Weights, name: str) -> "Subsampling":
        stages = (
            Stage(
                _convolution(weights, f"{name}.layers.{strided}"),
                None if pointwise is None else _convolution(weights, f"{name}.layers.{pointwise}"),
            )
            for strided, pointwise in zip(STRIDED, POINTWISE, strict=True)
        )
        return cls(tuple(stages), _convolution(weights, f"{name}.linear"))

    def __call__(self, frames: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """[N, T, bins] and how many frames [N] of each are valid, into [N, T / 8, width] and so many of those."""
        x = frames[:, None].to(self.linear.weight.dtype)
        for stage in self.stages:
            valid = (valid - 1) // 2 + 1
            x = stage(x, valid)
        return linear(x.transpose(1, 2).flatten(2), self.linear), valid


def _convolution(weights: Weights, name: str) -> Dense:
    return Dense(weights.tensor(f"{name}.weight"), weights.tensor(f"{name}.bias"))


def _masked(x: Tensor, valid: Tensor) -> Tensor:
    """Zero in frames beyond a clip's own: the next convolution would let them in."""
    inside = torch.arange(x.shape[2], device=x.device) < valid[:, None]
    return x.where(inside[:, None, :, None], 0.0)
