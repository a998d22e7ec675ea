"""`ssm_step_kernel` against `ssm_step_ref`, and both against the recurrence in fp64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.workers.engine.kernels.launched import needs_triton
from workers.engine.kernels.ssm_step import Tile, ssm_step_kernel, ssm_step_ref

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GPU = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")]
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # Triton's interpreter cuts bf16 off where a GPU rounds
pytestmark = needs_triton


class Layer:
    """A layer's numbers; every slot is NaN until something is written."""

    def __init__(
        self, heads: int, width: int, groups: int, size: int, window: int, slots: int, dtype: torch.dtype, seed: int = 0
    ) -> None:
        torch.manual_seed(seed)
        self.heads, self.width, self.groups, self.size, self.dtype = heads, width, groups, size, dtype
        self.inner, self.xb = heads * width, heads * width + groups * size
        self.a, self.d, self.dt_bias = -torch.rand(heads) * 4, torch.randn(heads), torch.randn(heads) - 2
        self.state = torch.full((slots, heads, width, size), torch.nan)
        self.window_xb = torch.full((slots, window, self.xb), torch.nan, dtype=dtype)
        self.window_dt = torch.full((slots, window, heads), torch.nan)
        for name in ("a", "d", "dt_bias", "state", "window_xb", "window_dt"):
            setattr(self, name, getattr(self, name).to(DEVICE))

    def rows(self, count: int) -> tuple[Tensor, Tensor]:
        """Rows xbc and dt that lie apart, as slices of what a projection gives."""
        wide = torch.randn(count, self.xb + self.groups * self.size + self.heads + 16).to(self.dtype).to(DEVICE)
        xbc = wide[:, 16 : 16 + self.xb + self.groups * self.size]
        return xbc, wide[:, 16 + self.xb + self.groups * self.size :]

    def fill(self, slots: list[int], lengths: list[int]) -> None:
        """A state and so many rows of a window in each slot."""
        for slot, length in zip(slots, lengths, strict=True):
            self.state[slot] = torch.randn_like(self.state[slot])
            self.window_xb[slot, :length] = torch.randn_like(self.window_xb[slot, :length])
            self.window_dt[slot, :length] = torch.rand_like(self.window_dt[slot, :length])

    def clone(self) -> "Layer":
        other = object.__new__(Layer)
        other.__dict__ |= self.__dict__ | {
            name: getattr(self, name).clone() for name in ("state", "window_xb", "window_dt")
        }
        return other

    def args(self, slots: list[int], lengths: list[int], flush: list[bool]) -> tuple[Tensor, ...]:
        step = [torch.tensor(each, device=DEVICE) for each in (slots, lengths, flush)]
        return self.a, self.d, self.dt_bias, self.state, self.window_xb, self.window_dt, *step


def exact(layer: Layer, xbc: Tensor, dt: Tensor, slot: int, length: int) -> tuple[Tensor, Tensor]:
    """Y and the new state of one row, in fp64."""
    per_group = layer.heads // layer.groups
    step = F.softplus(dt.double() + layer.dt_bias.double())
    steps = torch.cat([layer.window_dt[slot, :length].double(), step[None]])
    rows = torch.cat([layer.window_xb[slot, :length].double(), xbc[None, : layer.xb].double()])
    h = layer.state[slot].double()
    for one, its in zip(rows, steps, strict=True):
        x, b = one[: layer.inner].view(layer.heads, -1), one[layer.inner :].view(layer.groups, -1)
        b = b.repeat_interleave(per_group, 0)
        h = (its * layer.a.double()).exp()[:, None, None] * h + (its[:, None] * x)[:, :, None] * b[:, None]
    c = xbc[layer.xb :].double().view(layer.groups, -1).repeat_interleave(per_group, 0)
    now = xbc[: layer.inner].double().view(layer.heads, -1)
    return ((h * c[:, None]).sum(-1) + layer.d.double()[:, None] * now).flatten(), h


def error(got: Tensor, wanted: Tensor) -> float:
    """Relative RMS."""
    return ((got.double() - wanted).square().mean() / wanted.square().mean()).sqrt().item()


SMALL = (6, 8, 3, 16)  # heads, width, groups, size
REAL = pytest.param((64, 64, 8, 128), torch.bfloat16, marks=GPU, id="real-bf16")


@pytest.mark.parametrize("window", [1, 3, 8])
@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [pytest.param(SMALL, torch.float32, id="fp32"), pytest.param(SMALL, HALF, id="half"), REAL],
)
def test_all_phases_of_a_window_in_one_batch(sizes: tuple[int, ...], dtype: torch.dtype, window: int) -> None:
    count = window + 2
    layer = Layer(*sizes, window, count + 2, dtype)
    slots = [*range(1, count + 1)][::-1]  # the last slot of the pool stays empty
    lengths = [*range(window), 0, window // 2]
    flush = [length == window - 1 for length in lengths[:-1]] + [True]
    slots[1 % count] = count + 1
    layer.fill(slots, lengths)
    other, (xbc, dt) = layer.clone(), layer.rows(count)

    got = ssm_step_kernel(xbc, dt, *layer.args(slots, lengths, flush))
    ref = ssm_step_ref(xbc, dt, *other.args(slots, lengths, flush))
    assert got.dtype == dtype
    assert torch.isnan(layer.state[0]).all()
    assert torch.isnan(layer.window_xb[0]).all()
    for name in ("window_xb", "window_dt", "state"):
        mine, theirs = getattr(layer, name).float(), getattr(other, name).float()
        assert torch.equal(mine.isnan(), theirs.isnan()), name
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5, equal_nan=True), name
    assert torch.equal(layer.window_xb.nan_to_num(), other.window_xb.nan_to_num())
    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    assert torch.allclose(got.float(), ref.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
def test_the_error_is_that_of_the_reference(dtype: torch.dtype) -> None:
    layer = Layer(*SMALL, 5, 8, dtype)
    slots, lengths, flush = [3, 1, 6, 2], [0, 4, 2, 3], [False, True, True, False]
    layer.fill(slots, lengths)
    xbc, dt = layer.rows(4)
    wanted = [exact(layer, *row) for row in zip(xbc, dt, slots, lengths, strict=True)]
    y, h = (torch.stack(each) for each in zip(*wanted, strict=True))
    other = layer.clone()
    got = ssm_step_kernel(xbc, dt, *layer.args(slots, lengths, flush))
    ref = ssm_step_ref(xbc, dt, *other.args(slots, lengths, flush))
    floor = 1e-7
    assert error(got, y) <= 2 * error(ref, y) + floor
    assert error(layer.state[[1, 6]], h[1:3]) <= 2 * error(other.state[[1, 6]], h[1:3]) + floor


@pytest.mark.parametrize("case", ["no time", "much time"])
def test_no_time_and_much_time(case: str) -> None:
    layer = Layer(*SMALL, 8, 4, torch.float32)
    layer.a.fill_(-1.0)
    layer.dt_bias.fill_(-120.0 if case == "no time" else 50.0)
    slots, lengths, flush = [1, 2, 3], [7, 0, 5], [True, False, True]
    layer.fill(slots, lengths)
    layer.window_dt.fill_(0.0 if case == "no time" else 50.0)
    xbc, dt = layer.rows(3)
    wanted = torch.stack([exact(layer, *row)[0] for row in zip(xbc, dt, slots, lengths, strict=True)])
    got = ssm_step_kernel(xbc, dt, *layer.args(slots, lengths, flush))
    assert error(got, wanted) < 1e-6
    assert layer.state[[1, 3]].isfinite().all()


def test_a_small_step_keeps_its_digits() -> None:
    layer = Layer(*SMALL, 4, 2, torch.float32)
    layer.dt_bias.copy_(torch.linspace(-20, 25, layer.heads))
    layer.fill([1], [0])
    xbc, dt = layer.rows(1)
    ssm_step_kernel(xbc, dt, *layer.args([1], [0], [False]))
    wanted = torch.log1p((dt[0].double() + layer.dt_bias).exp())
    assert ((layer.window_dt[1, 0] - wanted) / wanted).abs().max() < 1e-6


def test_many_steps_are_the_recurrence() -> None:
    steps, window = 4096 if DEVICE == "cuda" else 20, 8
    layer = Layer(2, 4, 1, 8, window, 4, torch.float32)
    xbc, dt = layer.rows(3 * steps)
    h = torch.zeros(3, 2, 4, 8, dtype=torch.float64, device=DEVICE)
    layer.state[1:] = 0.0
    slots, lengths, phase = [3, 1, 2], [0, 0, 0], [0, 3, 6]  # they flush at different times
    for at in range(steps):
        rows = slice(3 * at, 3 * at + 3)
        flush = [(at + one) % window == window - 1 for one in phase]
        got = ssm_step_kernel(xbc[rows], dt[rows], *layer.args(slots, lengths, flush))
        step = F.softplus(dt[rows].double() + layer.dt_bias)
        x, b = xbc[rows, :8].double().view(3, 2, 4), xbc[rows, 8:16].double()
        h = (step * layer.a)[..., None, None].exp() * h + (step[..., None] * x)[..., None] * b[:, None, None]
        y = torch.einsum("shpn,sn->shp", h, xbc[rows, 16:].double()) + layer.d[:, None] * x
        assert torch.allclose(got.double(), y.flatten(1), rtol=1e-4, atol=1e-4)
        lengths = [0 if one else length + 1 for one, length in zip(flush, lengths, strict=True)]


@pytest.mark.parametrize("tile", [Tile(8, 4), Tile(4, 2), Tile(2, 1), Tile(64, 4)], ids=str)
def test_padding_writes_nothing_whatever_the_tile(tile: Tile) -> None:
    layer = Layer(*SMALL, 3, 3, torch.float32)
    layer.fill([1], [1])
    layer.window_dt[2], layer.state[2] = torch.nan, torch.nan
    other, (xbc, dt) = layer.clone(), layer.rows(4)
    call = [0, 1, 0, 0], [0, 1, 2, 0], [False, False, True, True]
    got = ssm_step_kernel(xbc, dt, *layer.args(*call), tile=tile)
    ref = ssm_step_ref(xbc, dt, *other.args(*call))
    assert torch.allclose(got[1], ref[1], rtol=1e-5, atol=1e-5)
    for name in ("state", "window_xb", "window_dt"):
        assert torch.allclose(getattr(layer, name), getattr(other, name), equal_nan=True), name
        assert getattr(layer, name)[0].isnan().all()


def test_no_rows() -> None:
    layer = Layer(*SMALL, 3, 3, torch.float32)
    assert ssm_step_kernel(*layer.rows(0), *layer.args([], [], [])).shape == (0, layer.inner)
