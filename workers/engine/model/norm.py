"""The inputs of mixers: what a norm gives, in the format that each weight reads."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from workers.engine.checkpoint.formats import Fp8, Weight
from workers.engine.checkpoint.weights import Weights
from workers.engine.kernels.rms_norm import Normed


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """With bias, as both encoders have it."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def load(cls, weights: Weights, name: str, eps: float) -> "LayerNorm":
        return cls(weights.tensor(f"{name}.weight"), weights.tensor(f"{name}.bias"), eps)

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def input_scales(*weights: Weight) -> tuple[Tensor, ...]:
    """The scales that a norm in front of these weights quantises with, in their order."""
    return tuple(one.input_scale for one in weights if isinstance(one, Fp8) and one.input_scale is not None)


def inputs(normed: Normed, *weights: Weight) -> list[Tensor]:
    """What each weight reads: its codes if it takes E4M3, else the value."""
    codes = iter(normed.codes)
    return [next(codes) if input_scales(one) else normed.value for one in weights]
