"""The text model: 52 blocks of norm and mixer on one residual stream.

Source: spec 2.1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from workers.engine.batch import Launch
from workers.engine.checkpoint.weights import Weights
from workers.engine.config import Mixer, TextConfig
from workers.engine.kernels.embed import embed
from workers.engine.kernels.rms_norm import Normed, add_rms_norm
from workers.engine.memory.state import State
from workers.engine.model.attention import Attention
from workers.engine.model.linear import Weight, linear
from workers.engine.model.mamba import Mamba
from workers.engine.model.moe import Moe


class Mixing(Protocol):
    """What a block does between its norm and its sum."""

    @property
    def input_scales(self) -> tuple[Tensor, ...]:
        """What its input is to be quantised with."""
        ...

    def __call__(self, normed: Normed, launch: Launch, state: State) -> Tensor:
        """[T, D], to be added to the stream."""
        ...


@dataclass(frozen=True, slots=True)
class Block:
    norm: Tensor
    mixer: Mixing

    @property
    def reads_value(self) -> bool:
        """Whether the normalised numbers are read, and not their codes alone. A router always reads them."""
        return isinstance(self.mixer, Moe) or not self.mixer.input_scales


@dataclass(frozen=True, slots=True)
class Decoder:
    """
    Attributes:
        embeddings: [vocab, D].
        blocks: in the order of the pattern.
        head: [vocab, D].
    """

    config: TextConfig
    embeddings: Tensor
    blocks: tuple[Block, ...]
    norm: Tensor
    head: Weight

    @classmethod
    def load(cls, weights: Weights, config: TextConfig, prefix: str = "language_model") -> "Decoder":
        return cls(
            config=config,
            embeddings=weights.tensor(f"{prefix}.backbone.embeddings.weight"),
            blocks=tuple(_blocks(weights, config, f"{prefix}.backbone.layers")),
            norm=weights.tensor(f"{prefix}.backbone.norm_f.weight"),
            head=weights.linear(f"{prefix}.lm_head"),
        )

    def __call__(self, launch: Launch, state: State) -> Tensor:
        """[samples, vocab] logits of the rows that are sampled, in the head's dtype.

        Writes `state`; waits for nothing.
        """
        eps, rows = self.config.layer_norm_epsilon, launch.sample_row
        residual, delta = self.embed(launch, state), None
        for block in self.blocks:
            scales = block.mixer.input_scales
            normed = add_rms_norm(residual, delta, block.norm, eps, scales, value=block.reads_value)
            residual, delta = normed.residual, block.mixer(normed, launch, state)
        return linear(add_rms_norm(residual, delta, self.norm, eps, rows=rows).value, self.head)

    def embed(self, launch: Launch, state: State) -> Tensor:
        """[T, D]: a row of the pool for media, else the embedding of the token, given or sampled last."""
        return embed(
            launch.token_ids, launch.state_slot, launch.media_row, state.last_token, state.media, self.embeddings,
            launch.shape.decodes,
        )  # fmt: skip


def _blocks(weights: Weights, config: TextConfig, prefix: str) -> Iterator[Block]:
    for at, mixer in enumerate(config.layers):
        name = f"{prefix}.{at}"
        norm = weights.tensor(f"{name}.norm.weight")
        match mixer:
            case Mixer.MAMBA:
                index = config.layers_of(mixer).index(at)
                yield Block(norm, Mamba.load(weights, config, f"{name}.mixer", index))
            case Mixer.ATTENTION:
                index = config.layers_of(mixer).index(at)
                yield Block(norm, Attention.load(weights, config, f"{name}.mixer", index))
            case Mixer.MOE:
                yield Block(norm, Moe.load(weights, config, f"{name}.mixer"))
