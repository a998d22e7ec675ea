"""The order in which FP4 tensor cores read block scales: tiles of 128 rows x 4 columns, padded to whole tiles.

Within a tile of 512 bytes the scale of (row, column) stands at (row % 32) * 16 + (row // 32) * 4 + column; tiles follow
each other row by row. Source: spec 8.3; cuBLAS, "1D block scaling factors layout".
"""

import torch
from torch import Tensor

ROWS, COLUMNS = 128, 4


def swizzle(scale: Tensor) -> Tensor:
    """[*E, rows, columns] of one byte each -> [*E, rows up to a multiple of 128, columns up to one of 4]; zeros pad."""
    *stack, rows, columns = scale.shape
    whole = scale.new_zeros(*stack, -(-rows // ROWS) * ROWS, -(-columns // COLUMNS) * COLUMNS, dtype=torch.uint8)
    whole[..., :rows, :columns] = scale.view(torch.uint8)
    tiles = whole.view(*stack, whole.shape[-2] // ROWS, 4, 32, whole.shape[-1] // COLUMNS, COLUMNS)
    # [..., tile row, row // 32, row % 32, tile column, column]
    return tiles.movedim((-2, -3, -4), (-4, -3, -2)).reshape(whole.shape).view(scale.dtype)


def unswizzle(scale: Tensor, rows: int, columns: int) -> Tensor:
    """What `swizzle` was given: [*E, rows, columns]."""
    *stack, padded_rows, padded_columns = scale.shape
    tiles = scale.view(torch.uint8).view(*stack, padded_rows // ROWS, padded_columns // COLUMNS, 32, 4, COLUMNS)
    whole = tiles.movedim((-4, -3, -2), (-2, -3, -4)).reshape(scale.shape)
    return whole[..., :rows, :columns].contiguous().view(scale.dtype)
