"""The kernel against the plain scan: small in the interpreter in fp32, at the model's sizes on a GPU in bf16."""

from dataclasses import dataclass
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from tests.workers.engine.kernels.launched import needs_triton
from tests.workers.engine.kernels.scan_in_bf16 import error, scan_in_bf16
from workers.engine.kernels.ssm_scan import ssm_scan, ssm_scan_ref
from workers.engine.kernels.ssm_scan_kernel import ssm_scan_kernel

pytestmark = [
    needs_triton,
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # the interpreter's own loops
]


@dataclass
class Case:
    """Sequences of `counts` rows in the slots 1, 2, ...; every second one has a state, all other states are NaN."""

    counts: list[int]
    heads: int = 4
    width: int = 16
    size: int = 16
    groups: int = 2
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    pad: bool = False

    def __post_init__(self) -> None:
        torch.manual_seed(len(self.counts) + sum(self.counts))
        tokens, inner = sum(self.counts), self.heads * self.width
        channels = inner + 2 * self.groups * self.size
        # Rows of a wider product, as the convolution's and the projection's outputs may be.
        self.xbc = torch.randn(tokens, channels + 8).to(self.device, self.dtype)[:, :channels]
        self.dt = torch.randn(tokens, self.heads + 16).to(self.device, self.dtype)[:, 16:]
        self.a = -(torch.rand(self.heads) * 4 + 0.1).to(self.device)
        self.d, self.dt_bias = (torch.randn(self.heads).to(self.device) for _ in range(2))
        self.slots = torch.arange(1, len(self.counts) + 1)
        if self.pad:
            self.slots[-1] = 0
        self.known = torch.arange(len(self.counts)) % 2 == 1
        self.state = torch.full((len(self.counts) + 2, self.heads, self.width, self.size), torch.nan)
        self.state[self.slots[self.known]] = torch.randn(self.state.shape[1:])

    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        starts = torch.tensor([0, *accumulate(self.counts)])
        return starts.to(self.device), self.slots.to(self.device), self.known.to(self.device)

    def kernel(self, tile: int, longest: int = 0) -> tuple[Tensor, Tensor]:
        state = self.state.to(self.device, copy=True)
        y = ssm_scan_kernel(
            self.xbc, self.dt, self.a, self.d, self.dt_bias, state, *self.tables(),
            groups=self.groups, longest_query=max(longest, *self.counts), tile=tile,
        )  # fmt: skip
        return y, state

    def plain(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        state = self.state.to(self.device, dtype, copy=True)
        y = ssm_scan_ref(
            self.xbc.to(dtype), self.dt.to(dtype), self.a, self.d, self.dt_bias, state, *self.tables(),
            groups=self.groups, chunk=16, longest_query=max(self.counts),
        )  # fmt: skip
        return y, state


@pytest.fixture(autouse=True)
def nan_in_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not written shows."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(*args, **kwargs).fill_(torch.nan))


@pytest.mark.parametrize("counts", [[1], [16], [17], [40, 5], [3, 0, 33, 16, 1]], ids=str)
@pytest.mark.parametrize("tile", [16, 32])
def test_a_kernel_is_the_plain_scan(counts: list[int], tile: int, device: str) -> None:
    case = Case(counts, device=device)
    y, state = case.kernel(tile, longest=50)
    exact, last = case.plain(torch.float32)
    torch.testing.assert_close(y, exact, atol=3e-5, rtol=1e-4)
    torch.testing.assert_close(state, last, atol=3e-5, rtol=1e-4, equal_nan=True)


def test_half_precision_errs_like_its_operands(device: str) -> None:
    case = Case([50, 21], width=32, dtype=torch.float16, device=device)
    y, state = case.kernel(16)
    exact, last = case.plain(torch.float32)
    assert error(y, exact) < 1e-3
    assert error(state[1:3], last[1:3]) < 1e-3


def test_padding_is_not_written_and_heads_may_be_few(device: str) -> None:
    case = Case([9, 20], heads=2, groups=1, size=32, device=device, pad=True)
    y, state = case.kernel(16)
    exact, last = case.plain(torch.float32)
    torch.testing.assert_close(y[:9], exact[:9], atol=3e-5, rtol=1e-4)
    torch.testing.assert_close(state[1], last[1], atol=3e-5, rtol=1e-4)
    assert torch.equal(state[0], case.state[0].to(device))


@pytest.mark.parametrize("dt", [-40.0, 0.0, 50.0])
def test_steps_may_be_nothing_or_forget_everything(dt: float, device: str) -> None:
    case = Case([37, 18], device=device)
    case.dt = torch.full_like(case.dt, dt)
    y, state = case.kernel(16)
    exact, last = case.plain(torch.float32)
    torch.testing.assert_close(y, exact, atol=3e-5, rtol=1e-3)
    torch.testing.assert_close(state, last, atol=3e-5, rtol=1e-3, equal_nan=True)


def test_a_sequence_of_nan_does_not_reach_its_neighbours(device: str) -> None:
    case = Case([19, 7, 30], device=device)
    clean, _ = case.kernel(16)
    case.xbc[19:26] = torch.nan
    y, state = case.kernel(16)
    assert torch.equal(y[:19], clean[:19])
    assert torch.equal(y[26:], clean[26:])
    assert state[[1, 3]].isfinite().all()


def test_a_sequence_alone_and_in_a_batch_is_the_same_to_the_bit(device: str) -> None:
    many = Case([21, 33, 18], device=device)
    together, _ = many.kernel(16)
    many.counts, many.slots, many.known = [18], many.slots[2:], many.known[2:]
    many.xbc, many.dt = many.xbc[54:], many.dt[54:]
    alone, _ = many.kernel(16)
    assert torch.equal(alone, together[54:])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("counts", [[1024, 1000, 1, 63, 0, 65, 2000], [5000]], ids=str)
def test_a_kernel_errs_at_most_twice_as_much_as_plain_bf16(counts: list[int]) -> None:
    case = Case(counts, heads=64, width=64, size=128, groups=8, dtype=torch.bfloat16, device="cuda")
    exact, last = case.plain(torch.float32)
    state, low_last = case.state.to("cuda"), case.state.to("cuda")
    low = scan_in_bf16(
        case.xbc, case.dt, case.a, case.d, case.dt_bias, low_last, *case.tables(), groups=case.groups
    )  # fmt: skip
    y = ssm_scan(
        case.xbc, case.dt, case.a, case.d, case.dt_bias, state, *case.tables(),
        groups=8, chunk=128, longest_query=max(counts),
    )  # fmt: skip
    written = case.slots.to("cuda")
    assert error(y, exact) < 2 * error(low, exact)
    assert error(state[written], last[written]) < 2 * error(low_last[written], last[written])
    assert state[0].isnan().all()
