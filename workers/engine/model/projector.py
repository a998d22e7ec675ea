"""What stands between an encoder and the text: RMSNorm, up, squared relu, down.

Source: spec 3.2, 4.2.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from workers.engine.checkpoint.weights import Weights
from workers.engine.config import ProjectorConfig
from workers.engine.kernels.rms_norm import add_rms_norm
from workers.engine.model.linear import Weight, linear


@dataclass(frozen=True, slots=True)
class Projector:
    norm: Tensor
    up: Weight
    down: Weight
    eps: float

    @classmethod
    def load(cls, weights: Weights, config: ProjectorConfig, norm: str, up: str, down: str) -> "Projector":
        return cls(weights.tensor(f"{norm}.weight"), weights.linear(up), weights.linear(down), config.eps)

    def __call__(self, features: Tensor) -> Tensor:
        """[T, width of the encoder] into [T, hidden]."""
        normed = add_rms_norm(features, None, self.norm, self.eps).value
        return linear(F.relu(linear(normed, self.up)).square(), self.down)
