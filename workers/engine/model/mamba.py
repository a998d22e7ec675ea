"""The Mamba-2 mixer: decoding rows take one step each, prefilling rows a chunked scan; both share one convolution.

Source: spec 2.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.batch import Launch
from workers.engine.checkpoint.weights import Weights
from workers.engine.config import TextConfig
from workers.engine.kernels.causal_conv import causal_conv
from workers.engine.kernels.gated_norm import gated_norm
from workers.engine.kernels.rms_norm import Normed
from workers.engine.kernels.ssm_scan import ssm_scan
from workers.engine.kernels.ssm_step import ssm_step
from workers.engine.memory.state import MambaState, State
from workers.engine.model.linear import Weight, linear
from workers.engine.model.norm import input_scales, inputs


@dataclass(frozen=True, slots=True)
class Mamba:
    """
    Attributes:
        index: which of the Mamba layers it is.
        in_proj: rows z, x, B, C, dt.
        conv_weight: [C, K], the channels of a tap beside each other.
        a, d, dt_bias: [H] f32; a = -exp(A_log).
        norm: [H P].
    """

    config: TextConfig
    index: int
    in_proj: Weight
    conv_weight: Tensor
    conv_bias: Tensor
    a: Tensor
    d: Tensor
    dt_bias: Tensor
    norm: Tensor
    out_proj: Weight

    @classmethod
    def load(cls, weights: Weights, config: TextConfig, prefix: str, index: int) -> "Mamba":
        return cls(
            config=config,
            index=index,
            in_proj=weights.linear(f"{prefix}.in_proj"),
            conv_weight=weights.tensor(f"{prefix}.conv1d.weight").squeeze(1).t().contiguous().t(),
            conv_bias=weights.tensor(f"{prefix}.conv1d.bias"),
            a=-weights.tensor(f"{prefix}.A_log", torch.float32).exp(),
            d=weights.tensor(f"{prefix}.D", torch.float32),
            dt_bias=weights.tensor(f"{prefix}.dt_bias", torch.float32),
            norm=weights.tensor(f"{prefix}.norm.weight"),
            out_proj=weights.linear(f"{prefix}.out_proj"),
        )

    @property
    def input_scales(self) -> tuple[Tensor, ...]:
        return input_scales(self.in_proj)

    def __call__(self, normed: Normed, launch: Launch, state: State) -> Tensor:
        """[T, D]. Writes the layer's state."""
        config, own = self.config, state.mamba[self.index]
        [u] = inputs(normed, self.in_proj)
        z, xbc, dt = linear(u, self.in_proj).split([config.d_inner, config.conv_dim, config.mamba_num_heads], dim=-1)
        xbc = causal_conv(
            xbc, self.conv_weight, self.conv_bias, own.conv_ring,
            launch.positions, launch.query_start, launch.state_slot,
        )  # fmt: skip
        parts = [*self._step(xbc, dt, launch, own), *self._scan(xbc, dt, launch, own)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        scales = input_scales(self.out_proj)
        u = gated_norm(y, z, self.norm, config.n_groups, config.layer_norm_epsilon, *scales)
        return linear(u, self.out_proj)

    def _step(self, xbc: Tensor, dt: Tensor, launch: Launch, own: MambaState) -> list[Tensor]:
        """The decoding rows, if there are any."""
        count = launch.shape.decodes
        if not count:
            return []
        y = ssm_step(
            xbc[:count], dt[:count], self.a, self.d, self.dt_bias, own.ssm_state, own.window_xb, own.window_dt,
            launch.state_slot[:count], launch.window_len[:count], launch.flush[:count],
        )  # fmt: skip
        return [y]

    def _scan(self, xbc: Tensor, dt: Tensor, launch: Launch, own: MambaState) -> list[Tensor]:
        """The prefilling rows, if there are any."""
        first = launch.shape.decodes
        if first == launch.shape.sequences:
            return []
        y = ssm_scan(
            xbc[first:], dt[first:], self.a, self.d, self.dt_bias, own.ssm_state,
            launch.query_start[first:] - first, launch.state_slot[first:], launch.has_initial_state[first:],
            groups=self.config.n_groups, chunk=self.config.chunk_size, longest_query=launch.shape.longest_query,
        )  # fmt: skip
        return [y]
