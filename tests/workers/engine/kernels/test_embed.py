import pytest
import torch
from torch import Tensor

from tests.workers.engine.kernels.launched import GPU, launched
from workers.engine.kernels.embed import embed, embed_kernel, embed_ref


def made(rows: int, decodes: int, width: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """A third of the decoding rows were given, a quarter of the others are media."""
    draw = torch.Generator(device).manual_seed(rows)

    def integers(most: int, count: int) -> Tensor:
        return torch.randint(most, (count,), generator=draw, device=device)

    ids, media_row = integers(50, rows), integers(9, rows)
    ids[:decodes] = torch.where(integers(3, decodes) == 0, ids[:decodes], -1)
    media_row = torch.where(integers(4, rows) == 0, media_row, -1)
    media_row[:decodes] = -1
    media, table = (torch.randn(count, width, generator=draw, device=device).to(dtype) for count in (9, 50))
    return ids, integers(6, decodes), media_row, integers(50, 6), media, table


def test_rows_are_tokens_media_and_what_was_sampled() -> None:
    ids, slots, media_row, last, media, table = made(20, 8, 6, torch.float32, "cpu")
    got = embed(ids, slots, media_row, last, media, table, 8)
    for row in range(20):
        id = ids[row] if ids[row] >= 0 else last[slots[row]]
        assert torch.equal(got[row], table[id] if media_row[row] < 0 else media[media_row[row]])


CASES = [
    *[pytest.param(*sizes, 96, torch.float16) for sizes in ((0, 0), (1, 1), (1, 0), (20, 8), (8, 8))],
    *[pytest.param(*sizes, 2688, torch.bfloat16, marks=GPU) for sizes in ((1, 1), (300, 256), (16384, 64))],
]


@launched
@pytest.mark.parametrize(("rows", "decodes", "width", "dtype"), CASES)
def test_the_kernel_is_the_reference(rows: int, decodes: int, width: int, dtype: torch.dtype, device: str) -> None:
    args = made(rows, decodes, width, dtype, device)
    assert torch.equal(embed_kernel(*args, decodes), embed_ref(*args, decodes))
