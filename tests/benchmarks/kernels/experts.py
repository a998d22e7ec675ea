"""The mixture of experts on a card: first that it is right, then each tile, each layer and each part against its floor.

    python -m tests.benchmarks.kernels.experts
    python -m tests.benchmarks.kernels.experts --only fp8 --tokens 256
    python -m tests.benchmarks.kernels.experts --only nvfp4

Weights of the model's size, uniform seeded routing. A time is that of one call in a graph of several with other tokens
and other choices, so that no expert waits in the L2 from the call before. The floor is the larger of the bytes of the
experts that are touched at 3.03 TB/s and the products at 790 (bf16) or 1,505 (E4M3) TFLOP/s. "before" is plain torch:
its grouped product between passes of its own.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from workers.engine.kernels.by_expert import by_expert
from workers.engine.kernels.experts import experts_kernel, experts_ref
from workers.engine.kernels.experts_fp8 import experts_fp8_kernel, experts_fp8_ref
from workers.engine.kernels.experts_nvfp4 import (
    dequantised,
    dequantised_ref,
    experts_nvfp4_kernel,
    grouped_nvfp4,
    in_fourths,
    repacked,
)
from workers.engine.kernels.experts_nvfp4 import tile_for as nvfp4_tile_for
from workers.engine.kernels.grouped_mm import E4M3, Tile, grouped_down, grouped_up, tile_for
from workers.engine.kernels.route import Routing, choose_ref, route_kernel
from workers.engine.kernels.squared_relu import squared_relu
from workers.engine.kernels.weighted_sum import weighted_sum

D, INNER, EXPERTS, TOP_K, SCALE = 2688, 1856, 128, 6, 2.5
BANDWIDTH = 3.03e12
PEAK = {torch.bfloat16: 790e12, E4M3: 1505e12}
NAMES = {torch.bfloat16: "bf16", E4M3: "fp8"}

# Tiles to be compared at a number of tokens, beside the one of the table.
CANDIDATES = {
    E4M3: {
        1: [(16, 64, 128, 4, 4), (16, 64, 128, 4, 8), (16, 64, 256, 4, 4), (16, 128, 128, 4, 5)],
        32: [(16, 64, 128, 4, 5), (16, 64, 256, 4, 3), (16, 128, 128, 4, 3)],
        256: [
            (16, 64, 128, 4, 5), (16, 128, 128, 4, 3), (16, 128, 128, 4, 4), (16, 128, 256, 4, 3), (32, 64, 128, 4, 5),
            (32, 64, 256, 4, 3), (32, 128, 128, 4, 3),
        ],
        1900: [
            (64, 64, 128, 4, 4), (64, 128, 128, 4, 4), (64, 128, 128, 8, 4), (128, 64, 128, 4, 3),
            (64, 256, 128, 8, 3), (128, 128, 128, 8, 4),
        ],
        16384: [
            (128, 256, 128, 8, 3), (256, 128, 128, 8, 3), (64, 256, 128, 8, 4), (64, 256, 128, 4, 3),
            (128, 128, 256, 8, 2), (128, 128, 128, 8, 5), (256, 64, 128, 8, 4), (128, 128, 64, 8, 6),
        ],
    },
    torch.bfloat16: {
        1: [(16, 64, 256, 4, 4)],
        256: [(16, 64, 256, 4, 3), (16, 128, 128, 4, 4), (32, 64, 128, 4, 5), (32, 128, 128, 4, 3)],
        1900: [(64, 128, 128, 4, 4), (128, 128, 128, 8, 4)],
        16384: [(128, 256, 128, 8, 3), (256, 128, 128, 8, 3), (128, 128, 128, 8, 3), (128, 128, 256, 8, 2)],
    },
}  # fmt: skip
LAYERS = {
    E4M3: (1, 8, 32, 256, 400, 1024, 1900, 4096, 16384),
    torch.bfloat16: (1, 32, 256, 1024, 1900, 16384),
}


@dataclass(frozen=True)
class Layer:
    """The tensors of `experts_fp8`, or with scales of None those of `experts`."""

    up: Tensor
    down: Tensor
    up_scale: Tensor | None = None
    up_in: Tensor | None = None
    down_scale: Tensor | None = None
    down_in: Tensor | None = None

    @classmethod
    def drawn(cls, dtype: torch.dtype) -> "Layer":
        torch.manual_seed(0)
        codes = 40.0 if dtype == E4M3 else 1.0
        stacks = []
        for out, into in ((INNER, D), (D, INNER)):
            stack = torch.empty(EXPERTS, out, into, dtype=dtype, device="cuda")
            for one in stack:
                one.copy_(torch.randn(out, into, device="cuda") * codes / (1 if dtype == E4M3 else into**0.5))
            stacks.append(stack)
        if dtype != E4M3:
            return cls(*stacks)
        vary = torch.linspace(0.7, 1.3, EXPERTS, device="cuda")
        scales = [(vary / (codes * into**0.5))[:, None].contiguous() for into in (D, INNER)]
        return cls(*stacks, scales[0], torch.tensor(0.012, device="cuda"), scales[1], vary * 0.02)

    @property
    def dtype(self) -> torch.dtype:
        return self.up.dtype

    def input(self, x: Tensor) -> Tensor:
        return x if self.up_in is None else (x.float() / self.up_in).clamp(-448, 448).to(E4M3)

    def all_of(self, tokens: "Tokens", how: Callable) -> Tensor:
        x, routing = self.input(tokens.x) if tokens.codes is None else tokens.codes, tokens.routing
        if self.dtype != E4M3:
            return how(x, routing, self.up, self.down, tokens.shared)
        scales = self.up_scale, self.up_in, self.down, self.down_scale, self.down_in
        return how(x, routing, self.up, *scales, torch.bfloat16, tokens.shared)


@dataclass(frozen=True)
class Tokens:
    x: Tensor
    codes: Tensor | None
    routing: Routing
    shared: Tensor

    @classmethod
    def drawn(cls, count: int, layer: Layer, seed: int) -> "Tokens":
        torch.manual_seed(seed)
        x = torch.randn(count, D, device="cuda").bfloat16()
        chosen = torch.rand(count, EXPERTS, device="cuda").topk(TOP_K).indices.int()
        weights = torch.rand(count, TOP_K, device="cuda") + 0.1
        routing = Routing(chosen, weights / weights.sum(1, keepdim=True) * SCALE)
        return cls(x, layer.input(x), routing, torch.randn_like(x))

    def floor_s(self, layer: Layer) -> tuple[float, str]:
        touched = len(self.routing.experts.unique())
        size = touched * 2 * D * INNER * layer.up.element_size()
        flop = 4 * self.routing.experts.numel() * D * INNER
        by_size, by_flop = size / BANDWIDTH, flop / PEAK[layer.dtype]
        return max(by_size, by_flop), f"{touched} exp {size / 1e6:6.0f} MB {flop / 1e9:6.0f} GF"


def error(got: Tensor, exact: Tensor) -> float:
    return ((got.double() - exact.double()).norm() / exact.double().norm()).item()


def time_us(calls: Iterable[Callable[[], object]], seconds: float = 0.12) -> float:
    """Median of one call, in a graph of all of them."""
    calls = list(calls)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]
    graph.replay()
    torch.cuda.synchronize()
    once = _replay_ms(graph)
    times = [_replay_ms(graph) for _ in range(max(5, min(50, int(1e3 * seconds / max(once, 1e-3)))))]
    del kept
    return 1e3 * statistics.median(times) / len(calls)


def _replay_ms(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def attempt(what: Callable[[], float]) -> float | str:
    try:
        return what()
    except Exception as problem:
        return f"{type(problem).__name__}: {' '.join(str(problem).split())}"[:200]


def number(value: float | str, floor_s: float | None = None) -> str:
    if isinstance(value, str):
        return value
    return f"{value:8.1f}" if floor_s is None else f"{value:8.1f} us {100e6 * floor_s / value:4.0f} %"


# What ran before: torch throughout.


def before_route(x: Tensor, weight: Tensor, bias: Tensor) -> Routing:
    logits = torch.mm(x, weight.t(), out_dtype=torch.float32)
    return choose_ref(logits, bias, top_k=TOP_K, scale=SCALE, normalise=True)


def before(layer: Layer, tokens: Tokens) -> Tensor:
    expert, order = tokens.routing.experts.flatten().sort(stable=True)
    ends = torch.searchsorted(expert, torch.arange(EXPERTS, device="cuda", dtype=expert.dtype), right=True).int()
    token = order // TOP_K
    if layer.dtype != E4M3:
        hidden = F.grouped_mm(tokens.x[token], layer.up.transpose(1, 2), offs=ends)
        out = F.grouped_mm(F.relu(hidden).square(), layer.down.transpose(1, 2), offs=ends)
    else:
        hidden = before_scaled(tokens.codes[token], layer.up, layer.up_in.expand(len(token)), layer.up_scale, ends)
        scale = layer.down_in[expert]
        inner = (F.relu(hidden).square().float() / scale[:, None]).clamp(-448, 448).to(E4M3)
        out = before_scaled(inner, layer.down, scale, layer.down_scale, ends)
    by_token = torch.empty_like(out).index_copy(0, order, out)
    weights = tokens.routing.weights
    return torch.einsum("tkd,tk->td", by_token.unflatten(0, weights.shape).float(), weights).bfloat16() + tokens.shared


def before_scaled(rows: Tensor, weight: Tensor, row_scale: Tensor, scale: Tensor, ends: Tensor) -> Tensor:
    per_output = scale.expand(weight.shape[:2]).contiguous()
    return torch._scaled_grouped_mm(
        rows, weight.transpose(1, 2), row_scale.contiguous(), per_output, offs=ends, out_dtype=torch.bfloat16
    )


def gate() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return (torch.randn(EXPERTS, D, device="cuda") / D**0.5).bfloat16(), torch.randn(EXPERTS, device="cuda") / 50


def check_route(counts: Iterable[int]) -> None:
    weight, bias = gate()
    for count in counts:
        x = torch.randn(count, D, device="cuda").bfloat16()
        got = route_kernel(x, weight, bias, top_k=TOP_K, scale=SCALE, normalise=True)
        scores = (x.double() @ weight.double().t()).sigmoid()
        index = got.experts.long()
        least = (scores + bias).gather(1, index).amin(1)
        left = (scores + bias).scatter(1, index, -torch.inf).amax(1)
        exact = scores.gather(1, index)
        off = (got.weights - SCALE * exact / exact.sum(1, keepdim=True)).abs().max().item()
        gap = (left - least).max().item()
        print(f"route T {count}: worst choice {gap:+.1e} better left out, weights off by {off:.1e}")
        assert gap < 1e-5 and off < 1e-5, "the router chooses otherwise"
        for part, (mine, theirs) in enumerate(
            zip(by_expert(got.experts, EXPERTS), _sorted_by_torch(got.experts), strict=True)
        ):
            assert torch.equal(mine, theirs), f"part {part} of the sort is wrong"


def _sorted_by_torch(chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    expert, order = chosen.flatten().sort(stable=True)
    ends = torch.searchsorted(expert, torch.arange(EXPERTS, device="cuda", dtype=expert.dtype), right=True)
    return order.int(), order.argsort().int(), ends.int()


def check(layer: Layer, counts: Iterable[int]) -> None:
    kernel = experts_fp8_kernel if layer.dtype == E4M3 else experts_kernel
    for count in counts:
        tokens = Tokens.drawn(count, layer, 99)
        if layer.dtype == E4M3:
            scales = layer.up_scale, layer.up_in, layer.down, layer.down_scale, layer.down_in
            exact = experts_fp8_ref(tokens.codes, tokens.routing, layer.up, *scales, torch.float32, tokens.shared)
        else:
            exact = experts_ref(
                tokens.x.float(), tokens.routing, layer.up.float(), layer.down.float(), tokens.shared.float()
            )
        torch_error = error(before(layer, tokens), exact)
        ours = error(layer.all_of(tokens, kernel), exact)
        print(f"{NAMES[layer.dtype]} T {count}: before {torch_error:.2e}, kernel {ours:.2e}")
        del exact
        assert ours < 2 * torch_error + 1e-4, "wrong"


def tiles(layer: Layer, counts: Iterable[int]) -> list[str]:
    lines = []
    for count in counts:
        calls = 12 if count == 1 else 3
        batch = [Tokens.drawn(count, layer, seed) for seed in range(calls)]
        sort = [by_expert(tokens.routing.experts, EXPERTS) for tokens in batch]
        scales = (layer.up_scale, layer.up_in, layer.down_in) if layer.dtype == E4M3 else ()
        down_scales = (layer.down_scale, layer.down_in) if layer.dtype == E4M3 else ()
        hidden = [grouped_up(t.codes, layer.up, s, TOP_K, *scales) for t, s in zip(batch, sort, strict=True)]
        floor = statistics.mean(tokens.floor_s(layer)[0] for tokens in batch) / 2
        chosen = tile_for(count * TOP_K, EXPERTS, layer.up.element_size())
        for tile in dict.fromkeys([chosen, *(Tile(*one) for one in CANDIDATES[layer.dtype][count])]):
            up = [
                partial(grouped_up, t.codes, layer.up, s, TOP_K, *scales, tile=tile)
                for t, s in zip(batch, sort, strict=True)
            ]
            down = [
                partial(grouped_down, h, layer.down, s, torch.bfloat16, *down_scales, tile=tile)
                for h, s in zip(hidden, sort, strict=True)
            ]
            times = [number(attempt(partial(time_us, each)), floor) for each in (up, down)]
            mark = "*" if tile == chosen else " "
            shape = f"{tile.rows:3}x{tile.cols:3}x{tile.depth_bytes:3}B w{tile.warps} s{tile.stages}"
            lines.append(f"{NAMES[layer.dtype]:4} T {count:5} {mark}{shape} up {times[0]} down {times[1]}")
    return lines


def layers(layer: Layer, counts: Iterable[int]) -> list[str]:
    kernel = experts_fp8_kernel if layer.dtype == E4M3 else experts_kernel
    lines = []
    for count in counts:
        batch = [Tokens.drawn(count, layer, seed) for seed in range(12 if count <= 8 else 3 if count <= 4096 else 1)]
        floor, sizes = batch[0].floor_s(layer)
        new = number(attempt(partial(time_us, [partial(layer.all_of, t, kernel) for t in batch])), floor)
        old = number(attempt(partial(time_us, [partial(before, layer, t) for t in batch])), floor)
        lines.append(f"{NAMES[layer.dtype]:4} T {count:5} {sizes} floor {1e6 * floor:6.1f} kernel {new} before {old}")
    return lines


NVFP4_TILES = {
    1: [(16, 64, 64, 4, 6), (16, 128, 64, 8, 4)],
    256: [(16, 64, 64, 4, 4), (16, 128, 64, 4, 4), (16, 128, 64, 8, 4), (32, 64, 64, 4, 4), (32, 128, 64, 8, 3)],
}


def nvfp4(counts: list[int]) -> list[str]:
    """Row-major block scales, then repacked ones; then all codes into numbers and the path of bf16 with many rows."""
    torch.manual_seed(0)
    stacks = []
    for out, into in ((INNER, D), (D, INNER)):
        codes = torch.randint(0, 256, (EXPERTS, out, into // 2), dtype=torch.uint8, device="cuda")
        block = torch.randint(0x30, 0x40, (EXPERTS, out, into // 16), dtype=torch.uint8, device="cuda").view(E4M3)
        stacks.append((codes, block, torch.full((EXPERTS,), 0.3 / into**0.5, device="cuda")))
    packed = [(codes, repacked(block), scale) for codes, block, scale in stacks]
    numbers = Layer(*(dequantised(*stack, torch.bfloat16) for stack in stacks))

    tokens = Tokens.drawn(256, numbers, 99)
    exact_stacks = [dequantised_ref(*stack, torch.float32) for stack in stacks]
    assert all(
        error(mine, theirs) < 3e-3 for mine, theirs in zip((numbers.up, numbers.down), exact_stacks, strict=True)
    ), "codes are turned into other numbers"
    exact = experts_ref(tokens.x.float(), tokens.routing, *exact_stacks, tokens.shared.float())
    torch_error = error(before(numbers, tokens), exact)
    errors = [
        error(experts_nvfp4_kernel(tokens.x, tokens.routing, *two[0], *two[1], tokens.shared), exact)
        for two in (stacks, packed)
    ]
    print(f"nvfp4 T 256: before {torch_error:.2e}, row-major and repacked {errors}")
    assert max(errors) < 2 * torch_error + 1e-4, "wrong"
    del exact, exact_stacks

    def whole(tokens: Tokens) -> Tensor:
        layer = Layer(*(dequantised(*stack, torch.bfloat16) for stack in stacks))
        return layer.all_of(tokens, experts_kernel)

    lines = []
    for count in counts:
        batch = [Tokens.drawn(count, numbers, seed) for seed in range(12 if count <= 8 else 3)]
        touched = len(batch[0].routing.experts.unique())
        floor = max(touched * 2 * D * INNER * 9 / 16 / BANDWIDTH, 4 * count * TOP_K * D * INNER / PEAK[torch.bfloat16])
        times = []
        for two in (stacks, packed):
            calls = [partial(experts_nvfp4_kernel, t.x, t.routing, *two[0], *two[1], t.shared) for t in batch]
            times.append(number(attempt(partial(time_us, calls)), floor))
        times.append(number(attempt(partial(time_us, [partial(whole, batch[0])])), floor))
        lines.append(
            f"nvfp4 T {count:5} {touched} exp floor {1e6 * floor:6.1f} row-major {times[0]} repacked {times[1]} "
            f"as numbers {times[2]}"
        )
        sort = [by_expert(t.routing.experts, EXPERTS) for t in batch]
        rows = [in_fourths(t.x) for t in batch]
        hidden = [grouped_nvfp4(x, *stacks[0], s, TOP_K) for x, s in zip(rows, sort, strict=True)]
        chosen = nvfp4_tile_for(count * TOP_K, EXPERTS)
        tried = [chosen, *(Tile(*one) for one in NVFP4_TILES[count])] if count in NVFP4_TILES else []
        for tile in dict.fromkeys(tried):
            times = []
            for two in (stacks, packed):
                up = [partial(grouped_nvfp4, x, *two[0], s, TOP_K, tile) for x, s in zip(rows, sort, strict=True)]
                down = [partial(grouped_nvfp4, h, *two[1], s, 0, tile) for h, s in zip(hidden, sort, strict=True)]
                times += [number(attempt(partial(time_us, each)), floor / 2) for each in (up, down)]
            mark = "*" if tile == chosen else " "
            shape = f"{tile.rows:3}x{tile.cols:3} w{tile.warps} s{tile.stages}"
            lines.append(f"nvfp4 T {count:5} {mark}{shape} row-major up, down, repacked up, down {' '.join(times)}")
    return lines


def parts(layer: Layer, counts: Iterable[int]) -> list[str]:
    weight, bias = gate()
    lines = []
    for count in counts:
        tokens = Tokens.drawn(count, layer, 3)
        pairs = by_expert(tokens.routing.experts, EXPERTS)
        rows = torch.randn(count * TOP_K, D, device="cuda").bfloat16()
        hidden = torch.randn(count * TOP_K, INNER, device="cuda").bfloat16()
        scale = layer.up_in if layer.dtype == E4M3 else None
        ours = partial(route_kernel, tokens.x, weight, bias, top_k=TOP_K, scale=SCALE, normalise=True)
        each = {
            "route": ours,
            "before": partial(before_route, tokens.x, weight, bias),
            "sort": partial(by_expert, tokens.routing.experts, EXPERTS),
            "relu2": partial(squared_relu, hidden, scale),
            "sum": partial(weighted_sum, rows, pairs.place, tokens.routing.weights, tokens.shared),
        }
        times = [f"{name} {number(attempt(partial(time_us, [call] * 10)))}" for name, call in each.items()]
        lines.append(f"{NAMES[layer.dtype]:4} T {count:5} " + " ".join(times))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["fp8", "bf16", "nvfp4"])
    parser.add_argument("--tokens", type=int, nargs="*", help="numbers of tokens; all of the tables without it")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, triton {triton.__version__}, {torch.cuda.get_device_name()}")

    def wanted(counts: Iterable[int]) -> list[int]:
        return [count for count in counts if not arguments.tokens or count in arguments.tokens]

    check_route(wanted((1, 31, 256, 1900, 16384)) or [256])
    lines: list[str] = []
    for dtype in (E4M3, torch.bfloat16):
        if arguments.only in (None, NAMES[dtype]):
            layer = Layer.drawn(dtype)
            check(layer, wanted((1, 40, 256, 1900)) or [256])
            lines += layers(layer, wanted(LAYERS[dtype]))
            lines += tiles(layer, wanted(CANDIDATES[dtype]))
            if dtype == E4M3:
                lines += parts(layer, wanted((1, 32, 256, 1900, 16384)))
            del layer
            torch.cuda.empty_cache()
    if arguments.only == "nvfp4":
        lines += nvfp4(wanted((1, 32, 256, 512, 1024, 1900)))
    print("shares are of the floor of a whole layer, or of half of it for up and for down; * is the tile of the table")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
