"""The whole model: encoders that fill the embedding pool, and the text model that reads it.

Source: spec 0.2, 2, 3, 4.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.batch import Launch
from workers.engine.checkpoint.expected import table
from workers.engine.checkpoint.weights import Weights
from workers.engine.config import OmniConfig
from workers.engine.features.grids import Grid
from workers.engine.features.mel import Mel
from workers.engine.memory.state import State
from workers.engine.model.decoder import Decoder
from workers.engine.model.projector import Projector
from workers.engine.model.sound import Sound
from workers.engine.model.vision import Vision, pixel_shuffle
from workers.engine.quant import Format

Get = Callable[[str], Tensor]


@dataclass(frozen=True, slots=True)
class OmniModel:
    """Weights and arithmetic; it remembers nothing, every state is an argument."""

    config: OmniConfig
    decoder: Decoder
    vision: Vision
    image_projector: Projector
    sound: Sound
    sound_projector: Projector

    @classmethod
    def from_tensors(cls, config: OmniConfig, get: Get, *, device: torch.device | str = "cpu") -> "OmniModel":
        """From tensors by official name, none of them quantised."""
        return cls.load(Weights(_Tensors(config, get), device))

    @classmethod
    def load(cls, weights: Weights) -> "OmniModel":
        """In whatever formats the checkpoint has."""
        config = weights.config
        sound = ("sound_projection.norm", "sound_projection.linear1", "sound_projection.linear2")
        return cls(
            config=config,
            decoder=Decoder.load(weights, config.text),
            vision=Vision.load(weights, config.vision),
            image_projector=Projector.load(weights, config.image_projector, "mlp1.0", "mlp1.1", "mlp1.3"),
            sound=Sound.load(weights, config.sound),
            sound_projector=Projector.load(weights, config.sound_projector, *sound),
        )

    def forward(self, launch: Launch, state: State) -> Tensor:
        """Logits [samples, vocab] f32 of one step; writes `state`. Waits for nothing: sampling is another call."""
        return self.decoder(launch, state)

    def encode_images(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """[patches of all images, 3 p p] into [tokens of all, hidden]."""
        return self.image_projector(pixel_shuffle(self.vision(patches, grids), grids))

    def encode_video(self, tubelets: Tensor, grid: Grid) -> Tensor:
        """[tubelets, patches, 2 3 p p] into [tubelets, tokens, hidden], before any are dropped."""
        tokens = self.encode_images(tubelets.flatten(0, 1), [grid] * len(tubelets))
        return tokens.unflatten(0, (len(tubelets), -1))

    def encode_sound(self, mel: Mel) -> Tensor:
        """Frames of the clips of one recording, or of many, into [tokens of all, hidden]."""
        return self.sound_projector(self.sound(mel))


class _Tensors:
    """A source that somebody else holds."""

    def __init__(self, config: OmniConfig, get: Get) -> None:
        self.config, self._get = config, get
        self.formats: Mapping[str, Format] = {}
        self.names: Sequence[str] = [name for name, one in table(config).items() if not one.optional]

    def tensor(self, name: str) -> Tensor:
        return self._get(name)

    def release(self, name: str) -> None:
        """Nothing is mapped."""
