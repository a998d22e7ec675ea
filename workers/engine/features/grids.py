"""How large a picture is shown to the vision tower: the patch grid of an image, of a video frame, of many images.

Whole-number arithmetic on sizes; no pixels. A grid has an even number of rows and columns, and four patches become one
token (the 2 x 2 pixel shuffle).

Source: spec 3.3, 3.5 (the rules of the published processors, Python's rounding half to even included).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

SHUFFLE = 2  # rows, and columns, of patches that make one token
CONTEXT_MARGIN = 4  # tokens that the published budget keeps free
MOST_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows and columns of patches."""

    rows: int
    columns: int

    @property
    def patches(self) -> int:
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        return self.patches // SHUFFLE**2

    def size_px(self, patch_px: int) -> tuple[int, int]:
        """Height and width of the resized picture."""
        return self.rows * patch_px, self.columns * patch_px


def image_grid(height_px: int, width_px: int, *, budget: int, least: int = 1024, patch_px: int = 16) -> Grid:
    """The grid of one image: its own, shrunk to `budget` patches, grown to `least`.

    Raises:
        ValueError: an empty image.
    """
    _refuse_empty(height_px, width_px)
    rows, columns = round(height_px / patch_px + 0.5), round(width_px / patch_px + 0.5)
    shrink = min(math.sqrt(budget / (rows * columns)), 1.0)
    rows, columns = math.floor(shrink * rows), math.floor(shrink * columns)
    if rows * columns == 0:
        raise ValueError(f"expected sides that {budget} patches can show, got {height_px} x {width_px} pixels")
    if budget > least and rows * columns < least:
        grow = math.sqrt(least / (rows * columns))
        rows, columns = math.ceil(grow * rows), math.ceil(grow * columns)
    rows = _even(rows, fits=(rows + 1) * columns <= budget)
    return Grid(rows, _even(columns, fits=rows * (columns + 1) <= budget))


def image_grids(
    sizes_px: Sequence[tuple[int, int]],
    *,
    text_tokens: int,
    context: int,
    least: int = 1024,
    most: int = 13312,
    patch_px: int = 16,
) -> list[Grid]:
    """The grids of all images of one prompt: each as large as the context that is left allows, then shrunk together.

    Args:
        sizes_px: height and width of each.
        text_tokens: tokens of the prompt without its images.
        context: positions that the server grants one sequence.
    """
    room = max(SHUFFLE**2 * (context - text_tokens - CONTEXT_MARGIN), least * len(sizes_px))
    budgets = [min(max(room, least), most)] * len(sizes_px)
    for _ in range(MOST_ROUNDS):
        grids = [
            image_grid(*size_px, budget=budget, least=least, patch_px=patch_px)
            for size_px, budget in zip(sizes_px, budgets, strict=True)
        ]
        total = sum(grid.patches for grid in grids)
        if total <= room:
            return grids
        shrunk = [max(least, int(grid.patches * room / total)) for grid in grids]
        budgets = shrunk if any(new < old for new, old in zip(shrunk, budgets, strict=True)) else [least] * len(grids)
    return [image_grid(*size_px, budget=least, least=least, patch_px=patch_px) for size_px in sizes_px]


def frame_grid(height_px: int, width_px: int, *, target: int = 1024) -> Grid:
    """The grid of a video frame: its aspect at about `target` patches, whatever its resolution.

    Raises:
        ValueError: an empty frame.
    """
    _refuse_empty(height_px, width_px)
    aspect = width_px / height_px
    rows, columns = max(1, round(math.sqrt(target / aspect))), max(1, round(math.sqrt(target * aspect)))
    up = Grid(rows + rows % SHUFFLE, columns + columns % SHUFFLE)
    if up.patches <= target:
        return up
    return Grid(max(SHUFFLE, rows - rows % SHUFFLE), max(SHUFFLE, columns - columns % SHUFFLE))


def square_grid(*, target: int = 1024) -> Grid:
    """The grid of every frame where the aspect is not kept."""
    side = max(SHUFFLE, math.isqrt(target) // SHUFFLE * SHUFFLE)
    return Grid(side, side)


def _even(side: int, *, fits: bool) -> int:
    if side % SHUFFLE == 0:
        return side
    return side + 1 if fits else max(SHUFFLE, side - 1)


def _refuse_empty(height_px: int, width_px: int) -> None:
    if height_px < 1 or width_px < 1:
        raise ValueError(f"expected a picture of at least 1 x 1 pixels, got {height_px} x {width_px}")
