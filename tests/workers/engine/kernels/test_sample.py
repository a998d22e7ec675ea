"""The kernel draws what the reference draws; what that is, `test_sampler.py` says."""

import pytest
import torch
from torch import Tensor

from tests.workers.engine.kernels.launched import GPU, launched
from workers.engine.kernels.sample import sample_kernel, sample_ref

MAX = 2**31 - 1
CUTS = {
    "cold": (0.0, 1.0, 0), "all": (1.0, 1.0, 0), "p": (0.7, 0.9, 0), "narrow p": (1.0, 0.02, 0), "k": (1.0, 1.0, 7),
    "k and p": (1.5, 0.5, 50), "1": (1.0, 0.5, 1), "k beyond all": (1.0, 0.9, MAX),
}  # fmt: skip


def made(rows: int, vocab: int, dtype: torch.dtype, device: str, cuts: str, masks: int = 0) -> tuple[Tensor, ...]:
    """Logits in steps of a quarter, where equal ones abound; row 1 is forced; rows in turn unmasked and masked."""
    draw = torch.Generator(device).manual_seed(rows + vocab)
    logits = torch.randn(rows, vocab, generator=draw, device=device).mul(12).round().div(4).to(dtype)
    seed, position = (torch.randint(-(2**63), 2**63 - 1, (rows,), generator=draw, device=device) for _ in range(2))
    forced = torch.full((rows,), -1, device=device)
    forced[1:2] = 3
    words = torch.randint(-(2**31), 2**31, (masks, -(-vocab // 32)), generator=draw, device=device).to(torch.int32)
    mask_row = torch.arange(rows, device=device).remainder(masks + 1).sub(1).to(torch.int32)
    temperature, top_p, top_k = CUTS[cuts]
    floats = [torch.full((rows,), value, device=device) for value in (temperature, top_p)]
    return (
        logits, *floats, torch.full((rows,), top_k, dtype=torch.int32, device=device), seed, position, forced, mask_row,
        words,
    )  # fmt: skip


@launched
@pytest.mark.parametrize(
    ("vocab", "dtype"),
    [(5, torch.float32), (100, torch.float16), (4096, torch.bfloat16), (9000, torch.bfloat16)],
    ids=["V5-f32", "V100-f16", "V4096-bf16", "V9000-bf16"],
)
@pytest.mark.parametrize("cuts", CUTS)
def test_the_kernel_draws_what_the_reference_draws(vocab: int, dtype: torch.dtype, cuts: str, device: str) -> None:
    args = made(4, vocab, dtype, device, cuts, masks=2)
    assert sample_kernel(*args).tolist() == sample_ref(*args).tolist()


@launched
@pytest.mark.parametrize("vocab", [5, 9000])
@pytest.mark.parametrize("rows", [0, 1, 4])
def test_the_largest_alone(rows: int, vocab: int, device: str) -> None:
    args = made(rows, vocab, torch.float32, device, "all", masks=1)
    assert sample_kernel(*args, greedy=True).tolist() == sample_ref(*args, greedy=True).tolist()


@launched
@pytest.mark.parametrize("cuts", ["all", "p", "k and p"])
def test_broken_rows_give_some_token_and_leave_the_others_alone(cuts: str, device: str) -> None:
    args = made(6, 40, torch.float32, device, cuts)
    whole = sample_kernel(*args).tolist()
    nan, inf = torch.nan, torch.inf
    for row, values in {0: (nan, nan), 2: (inf, 0.0), 4: (-inf, -inf)}.items():
        args[0][row] = torch.tensor([values[0]] + 39 * [values[1]], device=device)
    assert sample_kernel(*args).tolist() == [0, whole[1], 0, whole[3], 0, whole[5]]
    args[0][0, 1:] = 0.0
    args[0][0] = args[0][0].roll(7)
    assert sample_kernel(*args)[0] == 7  # the only one that is NaN


@launched
@pytest.mark.parametrize("cuts", ["all", "p", "k and p"])
def test_a_row_alone_is_the_row_in_a_batch(cuts: str, device: str) -> None:
    *rows, masks = made(4, 5000, torch.bfloat16, device, cuts, masks=1)
    together = sample_kernel(*rows, masks).tolist()
    assert together == [int(sample_kernel(*[one[at : at + 1] for one in rows], masks)) for at in range(4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("cuts", [pytest.param(name, marks=GPU) for name in CUTS])
def test_at_the_size_of_the_vocabulary_few_draws_are_on_a_border(cuts: str, dtype: torch.dtype) -> None:
    args = made(64, 131072, dtype, "cuda", cuts, masks=2)
    same = sample_kernel(*args) == sample_ref(*args)
    assert int((~same).sum()) <= 2
