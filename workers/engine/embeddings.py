"""Encoder passes, and their rows in the embedding pool.

A pass writes the rows of its part; the last one of a pruned video then chooses among all of them and moves those that
stay to the front. Nothing waits for the device: the counts of the choice come back as a tensor.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from workers.engine.features.evs import choose
from workers.engine.features.grids import Grid
from workers.engine.features.mel import Mel
from workers.engine.plan import Pass


class Encoders(Protocol):
    """What turns features into rows; see `OmniModel`."""

    def encode_images(self, patches: Tensor, grids: list[Grid]) -> Tensor: ...

    def encode_video(self, tubelets: Tensor, grid: Grid) -> Tensor: ...

    def encode_sound(self, mel: Mel) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """Features of an image: `patches` [rows * columns, 3 p p]."""

    patches: Tensor
    grid: Grid


@dataclass(frozen=True, slots=True)
class Tubelets:
    """Features of some tubelets of a video: `patches` [tubelets, rows * columns, 2 3 p p]."""

    patches: Tensor
    grid: Grid


class Embeddings:
    """
    Args:
        pool: [rows, hidden], written in place.
        page_size: rows of a page.
    """

    def __init__(self, encoders: Encoders, pool: Tensor, page_size: int) -> None:
        self._encoders, self._pool, self._page_size = encoders, pool, page_size

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
            case Picture(patches, grid):
                return self._encoders.encode_images(self._send(patches), [grid])
            case Tubelets(patches, grid):
                return self._encoders.encode_video(self._send(patches), grid).flatten(0, 1)
            case Mel():
                return self._encoders.encode_sound(features.to(self._pool.device))
        raise ValueError(f"expected a Picture, Tubelets or Mel, got {type(features).__name__}")

    def _send(self, patches: Tensor) -> Tensor:
        return patches.to(self._pool.device, non_blocking=True)

    def _rows(self, one: Pass) -> Tensor:
        """[rows of the item] int64, its places in the pool in order."""
        held, at = one.sequence.held, one.sequence.items.index(one.item)
        assert held is not None
        host = torch.empty(len(held.pages[at]), dtype=torch.int64, pin_memory=self._pool.is_cuda)
        host.numpy()[:] = held.pages[at]
        pages = host.to(self._pool.device, non_blocking=True)
        rows = pages[:, None] * self._page_size + torch.arange(self._page_size, device=self._pool.device)
        return rows.flatten()[: one.item.media.rows]
