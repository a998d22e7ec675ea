"""The mixture of experts: a router in fp32, the chosen experts, and one that sees every token.

Source: spec 2.3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.batch import Launch
from workers.engine.checkpoint.formats import Dense, Fp8, Nvfp4, dequantise
from workers.engine.checkpoint.weights import Weights
from workers.engine.config import TextConfig
from workers.engine.kernels.experts import experts
from workers.engine.kernels.experts_fp8 import experts_fp8
from workers.engine.kernels.experts_nvfp4 import experts_nvfp4
from workers.engine.kernels.rms_norm import Normed
from workers.engine.kernels.route import Routing, route
from workers.engine.kernels.squared_relu import squared_relu
from workers.engine.memory.state import State
from workers.engine.model.linear import Weight, linear
from workers.engine.model.norm import input_scales, inputs


@dataclass(frozen=True, slots=True)
class Moe:
    """
    Attributes:
        gate: [E, D].
        gate_bias: [E] f32.
        up, down: stacked, [E, F, D] and [E, D, F].
    """

    config: TextConfig
    gate: Tensor
    gate_bias: Tensor
    up: Weight
    down: Weight
    shared_up: Weight
    shared_down: Weight

    @classmethod
    def load(cls, weights: Weights, config: TextConfig, prefix: str) -> "Moe":
        return cls(
            config=config,
            gate=weights.tensor(f"{prefix}.gate.weight"),
            gate_bias=weights.tensor(f"{prefix}.gate.e_score_correction_bias", torch.float32),
            up=weights.experts(f"{prefix}.experts", "up_proj"),
            down=weights.experts(f"{prefix}.experts", "down_proj"),
            shared_up=weights.linear(f"{prefix}.shared_experts.up_proj"),
            shared_down=weights.linear(f"{prefix}.shared_experts.down_proj"),
        )

    @property
    def input_scales(self) -> tuple[Tensor, ...]:
        return input_scales(self.shared_up, self.up)

    def __call__(self, normed: Normed, launch: Launch, state: State) -> Tensor:
        """[T, D]. Remembers nothing."""
        shared, routed = inputs(normed, self.shared_up, self.up)
        routing = route(
            normed.value, self.gate, self.gate_bias,
            top_k=self.config.num_experts_per_tok,
            scale=self.config.routed_scaling_factor,
            normalise=self.config.norm_topk_prob,
        )  # fmt: skip
        return self._experts(routed, routing, self._shared(shared))

    def _shared(self, x: Tensor) -> Tensor:
        hidden = linear(x, self.shared_up)
        scale = input_scales(self.shared_down)
        return linear(squared_relu(hidden, *scale), self.shared_down)

    def _experts(self, x: Tensor, routing: Routing, shared: Tensor) -> Tensor:
        match self.up, self.down:
            case Dense(weight=up), Dense(weight=down):
                return experts(x, routing, up, down, shared)
            case Fp8(input_scale=Tensor() as up_in) as up, Fp8(input_scale=Tensor() as down_in) as down:
                return experts_fp8(
                    x, routing, up.weight, up.scale, up_in, down.weight, down.scale, down_in, up.out_dtype, shared
                )
            case Nvfp4(swizzled=False) as up, Nvfp4(swizzled=False) as down:
                scales = (up.block_scale, up.scale_2), (down.block_scale, down.scale_2)
                return experts_nvfp4(x, routing, up.weight, *scales[0], down.weight, *scales[1], shared)
            case up, down:
                # Any other mixture of formats: numbers of the activations' dtype for this call.
                return experts(x, routing, dequantise(up, x.dtype), dequantise(down, x.dtype), shared)
