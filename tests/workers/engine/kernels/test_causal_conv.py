import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.causal_conv import causal_conv

CHANNELS, TAPS = 6, 4


def whole(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    padded = F.pad(x.t()[None], (TAPS - 1, 0))
    return F.silu(F.conv1d(padded, weight[:, None], bias, groups=CHANNELS))[0].t()


class Convolution:
    """Sequences of one step, each at its own slot, with a ring that holds NaN where nothing was written."""

    def __init__(self, size: int, slots: int = 4) -> None:
        torch.manual_seed(0)
        self.weight, self.bias = torch.randn(CHANNELS, TAPS), torch.randn(CHANNELS)
        self.ring = torch.full((slots, size, CHANNELS), torch.nan)

    def __call__(self, parts: list[tuple[Tensor, int, int]]) -> list[Tensor]:
        """Rows, first position and slot of each sequence."""
        counts = [len(rows) for rows, _, _ in parts]
        out = causal_conv(
            torch.cat([rows for rows, _, _ in parts]), self.weight, self.bias, self.ring,
            torch.cat([start + torch.arange(len(rows)) for rows, start, _ in parts]),
            torch.tensor([0, *counts]).cumsum(0),
            torch.tensor([slot for _, _, slot in parts]),
        )  # fmt: skip
        return list(out.split(counts))


@pytest.mark.parametrize("size", [3, 4, 7])
@pytest.mark.parametrize("cuts", [[11], [1] * 11, [2, 9], [8, 3], [4, 1, 1, 5]], ids=str)
def test_any_cut_gives_the_whole(cuts: list[int], size: int) -> None:
    conv, x, at, out = Convolution(size), torch.randn(11, CHANNELS), 0, []
    for count in cuts:
        out += conv([(x[at : at + count], at, 2)])
        at += count
    assert torch.allclose(torch.cat(out), whole(x, conv.weight, conv.bias), atol=1e-5)


def test_sequences_of_a_step_do_not_meet() -> None:
    conv = Convolution(4)
    x, y = torch.randn(9, CHANNELS), torch.randn(5, CHANNELS)
    first = conv([(x[:6], 0, 3), (y[:0], 0, 2), (y[:2], 0, 1)])
    then = conv([(y[2:3], 2, 1), (x[6:], 6, 3)])
    assert torch.allclose(torch.cat([first[0], then[1]]), whole(x, conv.weight, conv.bias), atol=1e-5)
    assert torch.allclose(torch.cat([first[2], then[0]]), whole(y, conv.weight, conv.bias)[:3], atol=1e-5)


def test_a_new_sequence_hears_nothing_of_the_last_one_in_its_slot() -> None:
    conv, x = Convolution(4), torch.randn(5, CHANNELS)
    conv([(torch.randn(7, CHANNELS), 0, 1)])
    assert torch.allclose(conv([(x, 0, 1)])[0], whole(x, conv.weight, conv.bias), atol=1e-5)


def test_padding_is_not_remembered() -> None:
    conv = Convolution(4)
    conv([(torch.randn(1, CHANNELS), 0, 0), (torch.randn(3, CHANNELS), 0, 1), (torch.randn(6, CHANNELS), 0, 0)])
    assert conv.ring[0].isnan().all()
    assert conv.ring[1, :3].isfinite().all()
    assert conv.ring[1, 3].isnan().all()


def test_inputs_lie_at_their_position_in_the_ring() -> None:
    conv, x = Convolution(5), torch.randn(13, CHANNELS)
    conv([(x, 0, 1)])
    assert torch.equal(conv.ring[1], x[[10, 11, 12, 8, 9]])
