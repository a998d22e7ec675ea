"""Grouped-query attention over the paged cache, without positions of any kind.

Source: spec 2.4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.batch import Launch
from workers.engine.checkpoint.weights import Weights
from workers.engine.config import TextConfig
from workers.engine.kernels.kv_write import kv_write
from workers.engine.kernels.paged_attention import paged_attention
from workers.engine.kernels.rms_norm import Normed
from workers.engine.memory.state import State
from workers.engine.model.linear import Weight, linear
from workers.engine.model.norm import input_scales, inputs


@dataclass(frozen=True, slots=True)
class Attention:
    """
    Attributes:
        index: which of the attention layers it is.
        qkv_proj: rows of queries, keys, values.
        kv_scale: [2] f32 of keys and values in an E4M3 cache.
    """

    config: TextConfig
    index: int
    qkv_proj: Weight
    o_proj: Weight
    kv_scale: Tensor

    @classmethod
    def load(cls, weights: Weights, config: TextConfig, prefix: str, index: int) -> "Attention":
        qkv = weights.merged([f"{prefix}.{name}_proj" for name in "qkv"])
        kv_scale = torch.stack(weights.kv_scales(prefix))
        return cls(config, index, qkv, weights.linear(f"{prefix}.o_proj"), kv_scale)

    @property
    def input_scales(self) -> tuple[Tensor, ...]:
        return input_scales(self.qkv_proj)

    def __call__(self, normed: Normed, launch: Launch, state: State) -> Tensor:
        """[T, D]. Writes the layer's keys and values."""
        config, cache, shape = self.config, state.kv[self.index], launch.shape
        [u] = inputs(normed, self.qkv_proj)
        heads = linear(u, self.qkv_proj).unflatten(-1, (-1, config.head_dim))
        kv_heads = config.num_key_value_heads
        queries, keys, values = heads.split([config.num_attention_heads, kv_heads, kv_heads], dim=1)
        kv_write(keys, values, cache, launch.kv_slot, self.kv_scale)
        out = paged_attention(
            queries, cache, launch.block_table, launch.query_start, launch.context_len, self.kv_scale,
            decodes=shape.decodes, longest_query=shape.longest_query, longest_context=shape.longest_context,
        )  # fmt: skip
        return linear(out.flatten(1), self.o_proj)
