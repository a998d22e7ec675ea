"""C-RADIO: a plain ViT over one picture at a time, at the picture's own grid; and how four patches become a token.

Pictures are packed one behind the other; each brings its learned prefix, which is dropped at the end. A video goes
through the same blocks, two frames at a time, with a patch embedder of its own.

Source: spec 3.1, 3.2, 3.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.checkpoint.weights import Weights
from workers.engine.config import VisionConfig
from workers.engine.features.grids import SHUFFLE, Grid
from workers.engine.kernels.segment_attention import segment_attention
from workers.engine.model.linear import Weight, linear
from workers.engine.model.norm import LayerNorm


@dataclass(frozen=True, slots=True)
class VisionBlock:
    """Pre-norm attention and MLP with biases; exact GELU, no layer scale."""

    heads: int
    norm1: LayerNorm
    qkv: Weight
    proj: Weight
    norm2: LayerNorm
    fc1: Weight
    fc2: Weight

    @classmethod
    def load(cls, weights: Weights, config: VisionConfig, name: str) -> "VisionBlock":
        return cls(
            heads=config.num_attention_heads,
            norm1=LayerNorm.load(weights, f"{name}.norm1", config.layer_norm_eps),
            qkv=weights.linear(f"{name}.attn.qkv"),
            proj=weights.linear(f"{name}.attn.proj"),
            norm2=LayerNorm.load(weights, f"{name}.norm2", config.layer_norm_eps),
            fc1=weights.linear(f"{name}.mlp.fc1"),
            fc2=weights.linear(f"{name}.mlp.fc2"),
        )

    def __call__(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        queries, keys, values = linear(self.norm1(x), self.qkv).unflatten(-1, (3, self.heads, -1)).unbind(1)
        x = x + linear(segment_attention(queries, keys, values, lengths).flatten(1), self.proj)
        return x + linear(F.gelu(linear(self.norm2(x), self.fc1)), self.fc2)


@dataclass(frozen=True, slots=True)
class Vision:
    """
    Attributes:
        patch_dim: numbers of an image's patch; a tubelet's has more.
        positions: [rows, columns, width] the table.
        prefix: [10, width] learned tokens in front of each picture.
    """

    patch_dim: int
    embedder: Weight
    video_embedder: Weight
    positions: Tensor
    prefix: Tensor
    blocks: tuple[VisionBlock, ...]

    @classmethod
    def load(cls, weights: Weights, config: VisionConfig, prefix: str = "vision_model.radio_model.model") -> "Vision":
        at = f"{prefix}.patch_generator"
        return cls(
            patch_dim=config.patch_dim,
            embedder=weights.linear(f"{at}.embedder"),
            video_embedder=weights.linear(f"{at}.video_embedder"),
            positions=weights.tensor(f"{at}.pos_embed").unflatten(1, (config.grid_size, config.grid_size))[0],
            prefix=weights.tensor(f"{at}.cls_token.token"),
            blocks=tuple(
                VisionBlock.load(weights, config, f"{prefix}.blocks.{layer}")
                for layer in range(config.num_hidden_layers)
            ),
        )

    def __call__(self, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Features of packed pictures.

        Args:
            patches: [patches of all, 3 p p], or with twice the numbers for tubelets of a video.
            grids: of each picture, or tubelet.

        Returns:
            [patches of all, width].
        """
        counts = [grid.patches for grid in grids]
        if sum(counts) != len(patches):
            raise ValueError(f"expected {sum(counts)} patches for {len(grids)} grids, got {len(patches)}")
        embedder = self.embedder if patches.shape[1] == self.patch_dim else self.video_embedder
        x = linear(patches.to(self.prefix.dtype), embedder)
        table = {grid: self.position_rows(grid) for grid in set(grids)}
        x = x + torch.cat([table[grid] for grid in grids])
        x = torch.cat([part for picture in x.split(counts) for part in (self.prefix, picture)])
        lengths = [len(self.prefix) + count for count in counts]
        for block in self.blocks:
            x = block(x, lengths)
        return torch.cat([picture[len(self.prefix) :] for picture in x.split(lengths)])

    def position_rows(self, grid: Grid) -> Tensor:
        """[patches, width]: the table resized (bilinear) to a square of the longer side, then cropped.

        Only what stays is computed: of a sliver the square would be millions of rows.
        """
        side = max(grid.rows, grid.columns)
        rows = _resized(self.positions.float(), grid.rows, side)
        return _resized(rows.transpose(0, 1), grid.columns, side).transpose(0, 1).flatten(0, 1).to(self.prefix.dtype)


def _resized(table: Tensor, count: int, side: int) -> Tensor:
    """[size, ...] into the first `count` of `side` rows, each between the two that lie around its middle."""
    size = len(table)
    at = ((torch.arange(count, device=table.device, dtype=torch.float64) + 0.5) * size / side - 0.5).clamp_min(0.0)
    low = at.long()
    share = (at - low).float().view(-1, *[1] * (table.ndim - 1))
    return torch.lerp(table[low], table[(low + 1).clamp_max(size - 1)], share)


def pixel_shuffle(features: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Squares of 2 x 2 patches side by side: [patches of all, width] into [patches / 4, 4 width]."""
    parts = []
    for picture, grid in zip(features.split([grid.patches for grid in grids]), grids, strict=True):
        square = picture.view(grid.rows // SHUFFLE, SHUFFLE, grid.columns // SHUFFLE, SHUFFLE, -1)
        parts.append(square.transpose(1, 2).reshape(grid.tokens, -1))
    return torch.cat(parts)
