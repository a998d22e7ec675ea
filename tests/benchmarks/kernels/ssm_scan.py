"""The Mamba-2 scan of one layer on a GPU: right first, then its time at the sizes of a prefill, for each tile.

Run with `python -m tests.benchmarks.kernels.ssm_scan`.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import triton
from torch import Tensor

from tests.workers.engine.kernels.scan_in_bf16 import error, scan_in_bf16
from workers.engine.kernels.ssm_scan import ssm_scan_ref
from workers.engine.kernels.ssm_scan_kernel import ssm_scan_kernel

HEADS, WIDTH, SIZE, GROUPS, CHUNK = 64, 64, 128, 8, 128
INNER, CHANNELS, PROJECTED = HEADS * WIDTH, HEADS * WIDTH + 2 * GROUPS * SIZE, 10304
COPY, TENSOR = 3.03e12, 790e12  # bytes and FLOP a second of an H100
COLD_BYTES = 250e6  # what is read must not lie in L2

SIZES = {
    "16 x 1024": [1024] * 16,
    "11 x 1500": [1500] * 11,
    "5 x 3277": [3277] * 5,
    "2 x 8192": [8192] * 2,
    "1 x 16384": [16384],
    "3 x 500": [500] * 3,
    "1 x 1024": [1024],
}
# Rows of a tile, warps, stages.
CANDIDATES = [(64, 4, 1), (64, 4, 2), (64, 4, 3), (64, 8, 2), (64, 8, 3), (128, 8, 1), (128, 8, 2)]


@dataclass
class Inputs:
    counts: list[int]
    copies: int = 1

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        tokens, sequences = sum(self.counts), len(self.counts)
        cuda: dict[str, Any] = {"device": "cuda"}
        self.xbc = [torch.randn(tokens, CHANNELS, **cuda).to(torch.bfloat16) for _ in range(self.copies)]
        self.dt = torch.randn(tokens, PROJECTED, **cuda).to(torch.bfloat16)[:, -HEADS:]
        # As models are made: rates from 1 to 16, steps from 0.001 to 0.1.
        self.a = -torch.empty(HEADS, **cuda).uniform_(1, 16)
        self.d = torch.rand(HEADS, **cuda) + 0.5
        step = torch.exp(torch.empty(HEADS, **cuda).uniform_(-6.9, -2.3))
        self.dt_bias = step + torch.log(-torch.expm1(-step))
        self.state = torch.randn(sequences + 1, HEADS, WIDTH, SIZE, **cuda)
        self.tables = (
            torch.tensor([0, *accumulate(self.counts)], **cuda),
            torch.arange(1, sequences + 1, **cuda),
            torch.arange(sequences, **cuda) % 2 == 1,
        )

    def arguments(self, copy: int = 0, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, ...]:
        xbc, dt = self.xbc[copy].to(dtype), self.dt.to(dtype)
        return xbc, dt, self.a, self.d, self.dt_bias, self.state, *self.tables

    @property
    def sizes(self) -> dict[str, int]:
        return {"groups": GROUPS, "longest_query": max(self.counts)}

    @property
    def bytes(self) -> int:
        """Read and written at least: x, B, C, dt and y once, half of the states read and all written."""
        tokens = sum(self.counts)
        rows, states = tokens * (CHANNELS + HEADS + INNER) * 2, len(self.counts) * INNER * SIZE * 4
        return rows + states + int(self.tables[2].sum()) * INNER * SIZE * 4

    def flop(self, tile: int) -> int:
        """Products of a tile and head: scores, scores x, C h, x B."""
        tiles = sum(-(-count // tile) for count in self.counts)
        return 2 * tile * (tile * SIZE + tile * WIDTH + 2 * WIDTH * SIZE) * HEADS * tiles


def main() -> None:
    card = torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, triton {triton.__version__}, {card}", flush=True)
    candidates = [candidate for candidate in CANDIDATES if right(*candidate)]
    if not candidates:
        raise SystemExit("no candidate is right")
    try:
        profile(Inputs(SIZES["16 x 1024"]), candidates[0])
    except Exception as failure:  # a machine may forbid it
        print(f"no profile: {str(failure)[:200]}")
    print("\nus a layer; floor: the larger of bytes / 3.03 TB/s and FLOP of tiles of 64 / 790 TFLOP/s")
    columns = "".join(f"{tile:>5},{warps},{stages}" for tile, warps, stages in candidates)
    print(f"{'size':>10} {'floor':>6} {'torch':>8}{columns}  best: TB/s TFLOP/s of floor")
    for name, counts in SIZES.items():
        print(f"{name:>10} {measure(counts, candidates)}", flush=True)


def right(tile: int, warps: int, stages: int) -> bool:
    """Whether it errs at most twice as much as torch in bf16. Prints both errors."""
    inputs = Inputs([1000, 1, 65, 640, 127])
    before, places = inputs.state.clone(), slice(1, None)
    exact = ssm_scan_ref(*inputs.arguments(dtype=torch.float32), **inputs.sizes, chunk=CHUNK)
    exact_state = inputs.state.clone()
    inputs.state.copy_(before)
    low = scan_in_bf16(*inputs.arguments(), groups=GROUPS)
    low_state = inputs.state.clone()
    inputs.state.copy_(before)
    label = f"tile {tile}, {warps} warps, {stages} stages"
    try:
        y = ssm_scan_kernel(*inputs.arguments(), **inputs.sizes, tile=tile, warps=warps, stages=stages)
    except Exception as failure:  # one tile that does not compile is no reason to measure none
        print(f"{label}: {str(failure)[:200]}", flush=True)
        return False
    ours, torchs = error(y, exact), error(low, exact)
    ours_state = error(inputs.state[places], exact_state[places])
    torchs_state = error(low_state[places], exact_state[places])
    good = ours < 2 * torchs and ours_state < 2 * torchs_state and torch.equal(inputs.state[0], before[0])
    print(
        f"{label}: error of y {ours:.2e} (torch bf16 {torchs:.2e}), "
        f"of the state {ours_state:.2e} ({torchs_state:.2e}){'' if good else ': WRONG'}",
        flush=True,
    )
    return good


def profile(inputs: Inputs, candidate: tuple[int, int, int]) -> None:
    """Prints the time of each kernel of a call."""
    tile, warps, stages = candidate
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(3):
            ssm_scan_kernel(*inputs.arguments(), **inputs.sizes, tile=tile, warps=warps, stages=stages)
        torch.cuda.synchronize()
    for event in seen.key_averages():
        if event.key.startswith("_"):
            print(f"16 x 1024, {candidate}, {event.key}: {event.device_time:.1f} us", flush=True)


def measure(counts: list[int], candidates: list[tuple[int, int, int]]) -> str:
    """The row of a size."""
    inputs = Inputs(counts, copies=2 + int(COLD_BYTES / (sum(counts) * CHANNELS * 2)))
    floor = max(inputs.bytes / COPY, inputs.flop(64) / TENSOR)

    def plain(copy: int) -> Tensor:
        return ssm_scan_ref(*inputs.arguments(copy), **inputs.sizes, chunk=CHUNK)

    row = f"{floor * 1e6:6.1f} {seconds_a_call(plain, 1, replays=3) * 1e6:8.1f}"
    best, its_tile = float("inf"), 64
    for tile, warps, stages in candidates:

        def ours(copy: int, tile: int = tile, warps: int = warps, stages: int = stages) -> Tensor:
            return ssm_scan_kernel(*inputs.arguments(copy), **inputs.sizes, tile=tile, warps=warps, stages=stages)

        seconds = seconds_a_call(ours, len(inputs.xbc))
        row += f"{seconds * 1e6:9.1f}"
        best, its_tile = min((best, its_tile), (seconds, tile))
    torch.cuda.empty_cache()
    rates = f"{inputs.bytes / best / 1e12:12.2f} {inputs.flop(its_tile) / best / 1e12:7.0f}"
    return f"{row} {rates} {floor / best:8.0%}"


def seconds_a_call(call: Callable[[int], Tensor], copies: int, replays: int = 7) -> float:
    """Median of replays of one graph that calls once for each copy of the inputs; NaN, and why, where that fails."""
    try:
        call(0)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for copy in range(copies):
                call(copy)
        times = []
        for _ in range(replays + 1):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / copies / 1e3)
    except Exception as failure:  # the others go on
        print(f"{type(failure).__name__}: {str(failure)[:200]}", flush=True)
        return float("nan")
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
