from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.ssm_scan import ssm_scan
from workers.engine.kernels.ssm_step import ssm_step

HEADS, WIDTH, GROUPS, SIZE = 4, 3, 2, 5
INNER, XB = HEADS * WIDTH, HEADS * WIDTH + GROUPS * SIZE


class Layer:
    """A layer's numbers; every state begins at NaN."""

    def __init__(self, window: int = 1, slots: int = 4) -> None:
        torch.manual_seed(0)
        self.a, self.d, self.dt_bias = -torch.rand(HEADS) * 4, torch.randn(HEADS), torch.randn(HEADS)
        self.state = torch.full((slots, HEADS, WIDTH, SIZE), torch.nan)
        self.window_xb = torch.full((slots, window, XB), torch.nan)
        self.window_dt = torch.full((slots, window, HEADS), torch.nan)

    def scan(self, parts: list[tuple[Tensor, Tensor, int, bool]], chunk: int = 4, spare: int = 0) -> Tensor:
        """Rows xbc and dt, slot, and whether there is a state, of each sequence."""
        counts = [len(xbc) for xbc, *_ in parts]
        return ssm_scan(
            torch.cat([xbc for xbc, *_ in parts]), torch.cat([dt for _, dt, *_ in parts]), self.a, self.d, self.dt_bias,
            self.state, torch.tensor([0, *counts]).cumsum(0), torch.tensor([slot for *_, slot, _ in parts]),
            torch.tensor([known for *_, known in parts]),
            groups=GROUPS, chunk=chunk, longest_query=max(counts) + spare,
        )  # fmt: skip

    def step(self, xbc: Tensor, dt: Tensor, slots: list[int], lengths: list[int], flush: list[bool]) -> Tensor:
        return ssm_step(
            xbc, dt, self.a, self.d, self.dt_bias, self.state, self.window_xb, self.window_dt,
            torch.tensor(slots), torch.tensor(lengths), torch.tensor(flush),
        )  # fmt: skip


def rows(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, XB + GROUPS * SIZE), torch.randn(count, HEADS)


def recurrence(layer: Layer, xbc: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """Y and the last state, one token after another in fp64, straight from the definition."""
    h, out = torch.zeros(HEADS, WIDTH, SIZE, dtype=torch.float64), []
    for row, raw in zip(xbc.double(), dt.double(), strict=True):
        x, b, c = row[:INNER].view(HEADS, WIDTH), row[INNER:XB].view(GROUPS, SIZE), row[XB:].view(GROUPS, SIZE)
        step = F.softplus(raw + layer.dt_bias)
        y = torch.empty(HEADS, WIDTH, dtype=torch.float64)
        for head in range(HEADS):
            group = head // (HEADS // GROUPS)
            h[head] = (step[head] * layer.a[head]).exp() * h[head] + step[head] * torch.outer(x[head], b[group])
            y[head] = h[head] @ c[group] + layer.d[head] * x[head]
        out.append(y.flatten())
    return torch.stack(out).float(), h.float()


@pytest.mark.parametrize("chunk", [1, 4, 16])
@pytest.mark.parametrize("cuts", [[13], [1] * 13, [5, 8], [12, 1]], ids=str)
def test_a_scan_is_the_recurrence_however_it_is_cut(cuts: list[int], chunk: int) -> None:
    layer = Layer()
    xbc, dt = rows(13)
    exact, last = recurrence(layer, xbc, dt)
    at, out = 0, []
    for count in cuts:
        part = slice(at, at + count)
        out.append(layer.scan([(xbc[part], dt[part], 2, at > 0)], chunk))
        at += count
    assert torch.allclose(torch.cat(out), exact, atol=2e-5)
    assert torch.allclose(layer.state[2], last, atol=2e-5)


def test_sequences_of_a_scan_do_not_meet_and_padding_is_not_written() -> None:
    layer = Layer()
    one, two, pad, none = rows(9), rows(1), rows(3), rows(0)
    y = layer.scan([(*one, 3, False), (*none, 2, False), (*two, 1, False), (*pad, 0, False)], spare=5)
    assert torch.allclose(y[:9], recurrence(layer, *one)[0], atol=2e-5)
    assert torch.allclose(y[9:10], recurrence(layer, *two)[0], atol=2e-5)
    assert torch.allclose(layer.state[1], recurrence(layer, *two)[1], atol=2e-5)
    assert layer.state[0].isnan().all()


@pytest.mark.parametrize("window", [1, 2, 5, 8])
def test_steps_are_the_recurrence_with_any_window(window: int) -> None:
    layer = Layer(window)
    xbc, dt = rows(24)
    exact, last = recurrence(layer, xbc, dt)
    layer.scan([(xbc[:7], dt[:7], 1, False)])
    length = 0
    for at in range(7, 24):
        # Some windows are closed early: how they are cut must not matter.
        flush = length == window - 1 or at in (11, 12, 23)
        y = layer.step(xbc[at : at + 1], dt[at : at + 1], [1], [length], [flush])
        assert torch.allclose(y[0], exact[at], atol=2e-5)
        length = 0 if flush else length + 1
    assert torch.allclose(layer.state[1], last, atol=2e-5)


def test_a_state_is_written_once_in_a_window() -> None:
    layer = Layer(window=3)
    xbc, dt = rows(6)
    layer.scan([(xbc[:1], dt[:1], 1, False)])
    states = [layer.state[1].clone()]
    for at in range(1, 6):
        layer.step(xbc[at : at + 1], dt[at : at + 1], [1], [(at - 1) % 3], [at % 3 == 0])
        states.append(layer.state[1].clone())
    changed = [not torch.equal(old, new) for old, new in pairwise(states)]
    assert changed == [False, False, True, False, False]


def test_rows_are_taken_back_by_a_shorter_window() -> None:
    layer = Layer(window=4)
    xbc, dt = rows(4)
    layer.scan([(xbc[:1], dt[:1], 1, False)])
    for at, length in ((1, 0), (3, 1), (2, 1)):  # the row at 3 is a draft that was refused
        y = layer.step(xbc[at : at + 1], dt[at : at + 1], [1], [length], [False])
    assert torch.allclose(y[0], recurrence(layer, xbc[:3], dt[:3])[0][2], atol=2e-5)


def test_padding_steps_write_nothing() -> None:
    layer = Layer(window=2)
    one = rows(1)
    layer.scan([(*one, 1, False)])
    xbc, dt = rows(3)
    y = layer.step(xbc, dt, [0, 1, 0], [0, 0, 1], [False, True, True])
    assert y[1].isfinite().all()
    assert all(pool[0].isnan().all() for pool in (layer.state, layer.window_xb, layer.window_dt))
    assert layer.window_xb[1].isnan().all()
