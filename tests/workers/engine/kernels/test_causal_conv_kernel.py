"""`causal_conv_kernel` against `causal_conv_ref`: every cut of a sequence, rings of any size, neighbours, padding."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.workers.engine.kernels.launched import needs_triton
from workers.engine.kernels.causal_conv import Tile, causal_conv_kernel, causal_conv_ref

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GPU = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")]
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # Triton's interpreter cuts bf16 off where a GPU rounds
TAPS = 4
pytestmark = needs_triton

Part = tuple[int, int, int]  # rows, first position, slot


class Call:
    """One launch, for the kernel and for the reference."""

    def __init__(self, parts: list[Part], channels: int, ring: int, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        slots = 2 + max(slot for *_, slot in parts)
        counts = [count for count, *_ in parts]
        self.wide = torch.randn(sum(counts), channels + 24).to(dtype).to(DEVICE)
        self.weight = torch.randn(TAPS, channels).to(dtype).to(DEVICE).t()
        self.bias = torch.randn(channels).to(dtype).to(DEVICE)
        self.ring = torch.full((slots, ring, channels), torch.nan).to(dtype).to(DEVICE)
        for _, start, slot in parts:
            for position in range(max(start - ring, 0), start):
                self.ring[slot, position % ring] = torch.randn(channels).to(dtype).to(DEVICE)
        positions = [start + at for count, start, _ in parts for at in range(count)]
        starts = [0, *torch.tensor(counts).cumsum(0).tolist()]
        launch = positions, starts, [slot for *_, slot in parts]
        self.launch = [torch.tensor(each, device=DEVICE) for each in launch]
        self.channels = channels

    @property
    def x(self) -> Tensor:
        return self.wide[:, 8 : 8 + self.channels]

    def compare(self, tile: Tile | None = None) -> None:
        ring = self.ring.clone()
        options = {} if tile is None else {"tile": tile}
        got = causal_conv_kernel(self.x, self.weight, self.bias, ring, *self.launch, **options)
        wide = [each.float() for each in (self.x, self.weight, self.bias)]
        expected_ring = self.ring.float().clone()
        wanted = causal_conv_ref(*wide, expected_ring, *self.launch)
        own_ring = self.ring.clone()
        ref = causal_conv_ref(self.x, self.weight, self.bias, own_ring, *self.launch)
        real = self.launch[2][torch.searchsorted(self.launch[1], torch.arange(len(got), device=DEVICE), right=True) - 1]
        got, ref, wanted = (each[real > 0].float() for each in (got, ref, wanted))
        assert (got - wanted).abs().max() <= 2 * (ref - wanted).abs().max() + 1e-6 * (1 + wanted.abs().max())
        assert torch.equal(ring.isnan(), own_ring.isnan())
        assert torch.equal(ring.nan_to_num(), own_ring.nan_to_num())


@pytest.mark.parametrize("ring", [3, 4, 7])
@pytest.mark.parametrize("start", [0, 1, 2, 3, 9])
def test_chunks_of_every_length_in_one_launch(start: int, ring: int) -> None:
    parts = [(count, start, count) for count in (1, 2, 3, 4, 5, 8, 13)]
    Call(parts, 24, ring).compare(Tile(8, 2, 4, 1))


@pytest.mark.parametrize("tile", [Tile(8, 1, 1, 1), Tile(16, 4, 8, 2), Tile(32, 8, 16, 4), None], ids=str)
def test_decoding_rows_then_prefills_padding_and_nothing(tile: Tile | None) -> None:
    parts = [(1, 5, 3), (1, 11, 1), (1, 0, 0), (1, 4, 6), (0, 0, 2), (17, 0, 4), (2, 30, 5), (6, 0, 0)]
    Call(parts, 24, 4).compare(tile)


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("parts", [[(1, 7, slot) for slot in (3, 1, 2, 5, 9)], [(1, 0, 1)], [(40, 3, 2)]], ids=str)
def test_only_decoding_only_prefilling(parts: list[Part], dtype: torch.dtype) -> None:
    Call(parts, 16, 4, dtype).compare()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([(1, 1000 + slot, slot + 1) for slot in range(257)], id="decode", marks=GPU),
        pytest.param([(4097, 0, 1), (1, 3, 2), (2, 3, 3), (3, 3, 4), (1500, 8192, 5)], id="prefill", marks=GPU),
        pytest.param([(1, slot, slot + 1) for slot in range(190)] + [(700, 64, 200), (5, 0, 0)], id="mix", marks=GPU),
    ],
)
def test_real_sizes(parts: list[Part], dtype: torch.dtype) -> None:
    Call(parts, 6144, 4, dtype).compare()


def test_the_whole_in_pieces() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(23, 8), torch.randn(8, TAPS), torch.randn(8)
    whole = F.silu(F.conv1d(F.pad(x.t()[None], (TAPS - 1, 0)), weight[:, None], bias, groups=8))[0].t()
    x, weight, bias, whole = (each.to(DEVICE) for each in (x, weight, bias, whole))
    ring, out, at = torch.full((3, 4, 8), torch.nan, device=DEVICE), [], 0
    for count in (2, 1, 1, 7, 3, 1, 8):
        launch = torch.arange(at, at + count), torch.tensor([0, count]), torch.tensor([2])
        rows = x[at : at + count]
        out.append(causal_conv_kernel(rows, weight, bias, ring, *(each.to(DEVICE) for each in launch)))
        at += count
    assert torch.allclose(torch.cat(out), whole, atol=1e-5)


def test_no_rows() -> None:
    call = Call([(1, 0, 1)], 8, 4)
    positions, starts, slots = call.launch
    out = causal_conv_kernel(call.x[:0], call.weight, call.bias, call.ring, positions[:0], starts[:1], slots[:0])
    assert out.shape == (0, 8)
