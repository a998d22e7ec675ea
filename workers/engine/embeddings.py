"""Encoder passes, and their rows in the embedding pool.

A pass writes the rows of its part; the last one of a pruned video then chooses among all of them and moves those that
stay to the front. Pixels become patches here, on the device. Nothing waits for the device: features come in pinned
memory, and the counts of the choice go back as a tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from workers.engine.config import OmniConfig
from workers.engine.features.evs import choose
from workers.engine.features.grids import Grid
from workers.engine.features.mel import Mel
from workers.engine.features.pixels import TUBELET, normalise, patches, resize, tubelets
from workers.engine.plan import Pass


class Encoders(Protocol):
    """What turns features into rows; see `OmniModel`."""

    def encode_images(self, patches: Tensor, grids: list[Grid]) -> Tensor: ...

    def encode_video(self, tubelets: Tensor, grid: Grid) -> Tensor: ...

    def encode_sound(self, mel: Mel) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """Features of an image: `pixels` [3, height, width] uint8, shown at `grid`."""

    pixels: Tensor
    grid: Grid

    def pinned(self) -> "Picture":
        """In memory from which a copy to the card makes nobody wait."""
        return Picture(self.pixels.pin_memory(), self.grid)


@dataclass(frozen=True, slots=True)
class Frames:
    """Features of some tubelets of a video: `pixels` [frames, 3, height, width] uint8, each shown at `grid`."""

    pixels: Tensor
    grid: Grid

    def pinned(self) -> "Frames":
        """As `Picture.pinned`."""
        return Frames(self.pixels.pin_memory(), self.grid)


@dataclass(frozen=True, slots=True)
class Look:
    """How the tower wants its pictures: the side of a patch, and mean and deviation of each channel."""

    patch_px: int
    mean: Sequence[float]
    std: Sequence[float]
    tubelet: int = TUBELET

    @classmethod
    def of(cls, config: OmniConfig) -> "Look":
        vision = config.vision
        return cls(vision.patch_size, config.norm_mean, config.norm_std, vision.video_temporal_patch_size)


class Embeddings:
    """
    Args:
        pool: [rows, hidden], written in place.
        page_size: rows of a page.
    """

    def __init__(self, encoders: Encoders, pool: Tensor, page_size: int, look: Look) -> None:
        self._encoders, self._pool, self._page_size, self._look = encoders, pool, page_size, look
        # Sent once: numbers of Python on their way to a device make the host wait.
        self._mean, self._std = (
            torch.tensor(one, device=pool.device).view(1, -1, 1, 1) for one in (look.mean, look.std)
        )

    def run(self, one: Pass) -> Tensor | None:
        """Writes the rows of a pass; of a pruned video's last one returns the rows that stay, [tubelets] int64.

        Raises:
            ValueError: the encoder makes another number of rows than the part has.
        """
        media = one.item.media
        part, first = media.parts[one.part], sum(part.rows for part in media.parts[: one.part])
        values = self._encode(part.features)
        if len(values) != part.rows:
            raise ValueError(f"expected {part.rows} rows of {media.kind}, got {len(values)}")
        rows = self._rows(one)
        self._pool[rows[first : first + part.rows]] = values.to(self._pool.dtype)
        if media.pruning is None or not one.last:
            return None
        kept = choose(self._pool[rows].unflatten(0, (len(media.pruning.before), -1)), media.pruning.rate)
        self._pool[rows[: media.tokens]] = self._pool[rows[kept.index]]
        return kept.counts

    def _encode(self, features: object) -> Tensor:
        match features:
            case Picture(pixels, grid):
                shown = patches(self._shown(pixels[None], grid), self._look.patch_px)
                return self._encoders.encode_images(shown[0], [grid])
            case Frames(pixels, grid):
                shown = patches(tubelets(self._shown(pixels, grid), self._look.tubelet), self._look.patch_px)
                return self._encoders.encode_video(shown, grid).flatten(0, 1)
            case Mel():
                return self._encoders.encode_sound(features.to(self._pool.device))
        raise ValueError(f"expected a Picture, Frames or Mel, got {type(features).__name__}")

    def _shown(self, pixels: Tensor, grid: Grid) -> Tensor:
        """Resized and normalised."""
        there = pixels.to(self._pool.device, non_blocking=True)
        return normalise(resize(there, grid.size_px(self._look.patch_px)), self._mean, self._std)

    def _rows(self, one: Pass) -> Tensor:
        """[rows of the item] int64, its places in the pool in order."""
        held, at = one.sequence.held, one.sequence.items.index(one.item)
        assert held is not None
        host = torch.empty(len(held.pages[at]), dtype=torch.int64, pin_memory=self._pool.is_cuda)
        host.numpy()[:] = held.pages[at]
        pages = host.to(self._pool.device, non_blocking=True)
        rows = pages[:, None] * self._page_size + torch.arange(self._page_size, device=self._pool.device)
        return rows.flatten()[: one.item.media.rows]
