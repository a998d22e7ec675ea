from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.workers.engine import oracle
from tests.workers.engine.no_sync import NoSync
from workers.engine.features.evs import choose
from workers.engine.features.grids import Grid
from workers.engine.features.mel import log_mel
from workers.engine.model.vision import pixel_shuffle

GRIDS = [Grid(4, 6), Grid(2, 8), Grid(4, 6)]


def pictures(grids: list[Grid]) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(sum(grid.patches for grid in grids), 48)


def clips() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(length) for length in (16000, 3200, 9001)]


@torch.no_grad()
def test_encoders_wait_for_nothing() -> None:
    model, mel = oracle.ours(), log_mel(clips())
    with NoSync():
        model.encode_images(pictures(GRIDS), GRIDS)
        model.encode_sound(mel)
        kept = choose(model.encode_video(torch.randn(3, 24, 96), Grid(4, 6)), 0.5)
    assert len(kept.index) == 9


@torch.no_grad()
def test_a_picture_has_the_same_tokens_alone_and_in_company() -> None:
    model, packed = oracle.ours(), pictures(GRIDS)
    together = model.encode_images(packed, GRIDS).split([grid.tokens for grid in GRIDS])
    for patches, grid, rows in zip(packed.split([grid.patches for grid in GRIDS]), GRIDS, together, strict=True):
        assert torch.allclose(rows, model.encode_images(patches, [grid]), atol=1e-5)


@torch.no_grad()
def test_a_clip_has_the_same_tokens_alone_and_in_company() -> None:
    model, waveforms = oracle.ours(), clips()
    alone = torch.cat([model.encode_sound(log_mel([one])) for one in waveforms])
    assert torch.allclose(model.encode_sound(log_mel(waveforms)), alone, atol=2e-5)


def test_a_token_is_a_square_of_patches_row_by_row() -> None:
    features = torch.arange(24.0)[:, None]  # rows of 6
    tokens = pixel_shuffle(features, [Grid(4, 6)])
    assert tokens[0].tolist() == [0, 1, 6, 7]
    assert tokens[2].tolist() == [4, 5, 10, 11]
    assert tokens[3].tolist() == [12, 13, 18, 19]


def test_positions_are_the_table_itself_at_its_size_and_its_corner_below() -> None:
    vision = oracle.ours().vision
    table = vision.positions.flatten(0, 1)
    assert torch.equal(vision.position_rows(Grid(16, 16)), table)
    corner = vision.position_rows(Grid(2, 16)).unflatten(0, (2, 16))
    assert torch.equal(corner, table.unflatten(0, (16, 16))[:2])


@pytest.mark.parametrize("grid", [Grid(4, 6), Grid(10, 4), Grid(22, 18), Grid(2, 50)])
def test_positions_of_another_size_are_the_corner_of_the_resized_square(grid: Grid) -> None:
    vision, side = oracle.ours().vision, max(grid.rows, grid.columns)
    table = vision.positions.permute(2, 0, 1)[None]
    square = F.interpolate(table, size=(side, side), mode="bilinear", align_corners=False)[0]
    corner = square[:, : grid.rows, : grid.columns].permute(1, 2, 0).flatten(0, 1)
    assert torch.allclose(vision.position_rows(grid), corner, atol=2e-5)


def test_a_sliver_needs_no_square() -> None:
    with torch.device("meta"):
        table, prefix = torch.empty(16, 16, 64), torch.empty(10, 64)
    vision = replace(oracle.ours().vision, positions=table, prefix=prefix)
    with Largest() as largest:
        assert vision.position_rows(Grid(2, 100_000)).shape == (200_000, 64)
    assert largest.numbers <= 200_000 * 64


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that anybody makes meanwhile."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            self.numbers = max(self.numbers, one.numel() if isinstance(one, Tensor) else 0)
        return out


def test_patches_that_do_not_fill_their_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 40 patches for 2 grids, got 39"):
        oracle.ours().encode_images(torch.zeros(39, 48), GRIDS[:2])
