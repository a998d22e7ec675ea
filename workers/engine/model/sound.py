"""Parakeet: strided convolutions down to 12.5 frames a second, then conformer blocks with relative positions.

Clips of several lengths run side by side; frames beyond a clip's own are kept at zero where frames meet.

Source: spec 4.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.checkpoint.weights import Weights
from workers.engine.config import SoundConfig
from workers.engine.features.mel import Mel, subsampled
from workers.engine.model.conformer import ConformerBlock
from workers.engine.model.subsampling import Subsampling

BASE = 10000.0


@dataclass(frozen=True, slots=True)
class Sound:
    config: SoundConfig
    subsampling: Subsampling
    blocks: tuple[ConformerBlock, ...]

    @classmethod
    def load(cls, weights: Weights, config: SoundConfig, prefix: str = "sound_encoder.encoder") -> "Sound":
        blocks = (
            ConformerBlock.load(weights, config, f"{prefix}.layers.{at}") for at in range(config.num_hidden_layers)
        )
        return cls(config, Subsampling.load(weights, f"{prefix}.subsampling"), tuple(blocks))

    def __call__(self, mel: Mel) -> Tensor:
        """Features of all clips, one behind the other without padding: [T, width]."""
        lengths = [subsampled(frames) for frames in mel.valid]
        x, valid = self.subsampling(mel.frames, mel.counts)
        x = x[:, : max(lengths)]
        distances = sinusoids(x.shape[1], self.config.hidden_size, x.device).to(x.dtype)
        for block in self.blocks:
            x = block(x, distances, valid)
        return torch.cat([clip[:length] for clip, length in zip(x, lengths, strict=True)])


def sinusoids(frames: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """[2 frames - 1, width] f32 of the distances frames - 1 down to -(frames - 1); sine and cosine take turns."""
    distance = torch.arange(frames - 1, -frames, -1, device=device, dtype=torch.float32)
    rate = BASE ** -(torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angle = distance[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
