"""Paged attention and the write of its pages on one GPU: right first, then how long, beside torch.

    python -m tests.benchmarks.kernels.paged_attention [--quick]

Each candidate is a column: microseconds, of graph replays over inputs that the L2 does not hold. The last columns say
what the best one reaches. `--quick` times what the engine runs, and nothing else.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from workers.engine.kernels.kv_write import kv_write_kernel, kv_write_ref
from workers.engine.kernels.paged_attention import paged_attention_kernel, paged_attention_ref
from workers.engine.kernels.paged_decode import paged_decode_kernel
from workers.engine.kernels.paged_prefill import paged_prefill_kernel

HQ, HK, W, BLOCK = 32, 2, 128, 256
BF16, E4M3 = torch.bfloat16, torch.float8_e4m3fn
NAMES = {BF16: "bf16", E4M3: "e4m3"}
BYTES_A_SECOND, FLOP_A_SECOND = 3.03e12, 790e12
ENGINE_CONTEXT = 32768  # what a decode graph is captured with

Options = dict[str, Any]
DECODE: dict[str, Options] = {
    "default": {},
    "512": {"split": 512},
    "2048": {"split": 2048},
    "t32s4": {"tile": 32, "stages": 4},
    "t64s4": {"stages": 4},
    "t128": {"tile": 128, "stages": 2, "programs": 2},
    "t128w8": {"tile": 128, "warps": 8, "stages": 3, "programs": 2},
    "p2": {"programs": 2},
}
PREFILL: dict[str, Options] = {
    "default": {},
    "t128s2": {"tile": 128, "stages": 2},
    "t64s3": {"tile": 64, "stages": 3},
    "r4t64w4": {"rows": 4, "tile": 64, "warps": 4, "stages": 2},
}


@dataclass
class Step:
    """Sequences of (rows, positions before), the decoding ones first; what no sequence owns of the cache is NaN."""

    parts: Sequence[tuple[int, int]]
    dtype: torch.dtype
    decodes: int
    scale: Tensor = field(default_factory=lambda: torch.ones(2, device="cuda"))

    def __post_init__(self) -> None:
        contexts = [rows + before for rows, before in self.parts]
        counts = [-(-context // BLOCK) for context in contexts]
        order = (torch.randperm(sum(counts)) + 1).split(counts)
        self.table = torch.nn.utils.rnn.pad_sequence(list(order), batch_first=True).int().cuda()
        self.context_len = torch.tensor(contexts, device="cuda")
        self.query_start = torch.tensor([0, *(rows for rows, _ in self.parts)], device="cuda").cumsum(0)
        self.cache = torch.full((sum(counts) + 1, 2, BLOCK, HK, W), torch.nan, dtype=BF16, device="cuda")
        self.cache = self.cache.to(self.dtype)
        for row, context in zip(self.table, contexts, strict=True):
            at = torch.arange(context, device="cuda")
            keys, values = torch.randn(2, context, HK, W, dtype=BF16, device="cuda")
            kv_write_kernel(keys, values, self.cache, row[at // BLOCK] * BLOCK + at % BLOCK, self.scale)
        # As the projection leaves it: a row of queries, keys and values.
        rows = int(self.query_start[-1])
        self.queries = torch.randn(rows, HQ + 2 * HK, W, dtype=BF16, device="cuda")[:, :HQ]
        self.longest_query = max([rows for rows, _ in self.parts[self.decodes :]], default=0)
        self.longest_context = max(contexts)
        self.positions = sum(contexts)
        self.flop = sum(4 * HQ * W * (rows * before + rows * (rows + 1) // 2) for rows, before in self.parts)

    def __call__(self, attention: Callable[..., Tensor], form: torch.dtype = BF16) -> Tensor:
        cache = self.cache.to(form) if self.dtype != E4M3 else self.cache
        return attention(
            self.queries.to(form), cache, self.table, self.query_start, self.context_len, self.scale,
            decodes=self.decodes, longest_query=self.longest_query, longest_context=self.longest_context,
        )  # fmt: skip

    def decode(self, out: Tensor, longest: int = ENGINE_CONTEXT, **options: Any) -> None:
        longest = max(longest, self.longest_context)
        paged_decode_kernel(
            self.queries, self.cache, self.table, self.context_len, self.scale, out, longest_context=longest, **options
        )

    def prefill(self, out: Tensor, **options: Any) -> None:
        paged_prefill_kernel(
            self.queries, self.cache, self.table, self.query_start, self.context_len, self.scale, out,
            decodes=0, **options,
        )  # fmt: skip


def error(got: Tensor, exact: Tensor) -> float:
    """Relative, of the worst row."""
    difference = (got.double() - exact.double()).flatten(1).norm(dim=1)
    return float((difference / exact.double().flatten(1).norm(dim=1)).max())


def timed(calls: Sequence[Callable[[], object]], least_us: float = 4000) -> float:
    """Microseconds of one call; they take turns inside one graph."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times = []
    while len(times) < 5 or (sum(times) < least_us and len(times) < 100):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000)
    return statistics.median(times) / len(calls)


def columns(candidates: dict[str, Options], calls: Sequence[Callable[..., object]]) -> tuple[str, float, str]:
    """The times of all candidates in a row, and the best; what fails says so and stands as a dash."""
    texts, times = [], {}
    for name, options in candidates.items():
        try:
            times[name] = timed([partial(call, **options) for call in calls])
            texts.append(f"{times[name]:>9.1f}")
        except Exception as problem:
            print(f"{name}: {problem!s:.200}")
            torch.cuda.synchronize()
            texts.append(f"{'-':>9}")
    best = min(times, key=times.__getitem__, default="-")
    return "".join(texts), times.get(best, float("nan")), best


def check_writes() -> None:
    torch.manual_seed(0)
    for dtype in (BF16, E4M3):
        for scale in (1.0, 0.3):
            heads = torch.randn(1000, HQ + 2 * HK, W, dtype=BF16, device="cuda") * 200
            heads[3, -4:] = torch.nan
            slot = torch.randperm(4000, device="cuda")[:1000] + 1
            slot[::7] = 0
            pages = [torch.full((20, 2, BLOCK, HK, W), 3.0, device="cuda").to(dtype) for _ in range(2)]
            for write, page in zip((kv_write_ref, kv_write_kernel), pages, strict=True):
                write(heads[:, HQ:-HK], heads[:, -HK:], page, slot, torch.tensor([scale, 2 * scale], device="cuda"))
            same = torch.equal(pages[0].view(torch.uint8), pages[1].view(torch.uint8))
            print(f"kv_write {NAMES[dtype]} scale {scale}: {'bytes equal' if same else 'BYTES DIFFER'}")
            if not same:
                raise SystemExit("kv_write is wrong")


def check_attention() -> None:
    torch.manual_seed(0)
    decoding = [(1, before) for before in (0, 1, 255, 256, 1023, 1024, 4000, 40000)]
    filling = [(1, 0), (7, 0), (129, 300), (1500, 0), (513, 2047)]
    for dtype in (BF16, E4M3):
        scale = torch.tensor([0.5, 2.0] if dtype == E4M3 else [1.0, 1.0], device="cuda")
        for name, parts, decodes in (
            ("decode", decoding, len(decoding)),
            ("prefill", filling, 0),
            ("mixed", [(1, 77), (1, 2000), *filling], 2),
        ):
            step = Step(parts, dtype, decodes, scale)
            exact = step(paged_attention_ref, torch.float32)
            got = step(paged_attention_kernel)
            ours, torchs = error(got, exact), error(step(paged_attention_ref), exact)
            print(f"{name} {NAMES[dtype]}: relative error {ours:.2e}, torch in bf16 {torchs:.2e}")
            if not ours <= 2 * torchs:
                raise SystemExit(f"{name} is wrong")
            candidates, run = (DECODE, step.decode) if name == "decode" else (PREFILL, step.prefill)
            for label, options in candidates.items() if name != "mixed" else ():
                out = torch.full_like(got, torch.nan)
                with suppress(Exception):  # named again where it is timed
                    run(out, **options)
                    if not error(out, exact) <= 2 * torchs:
                        raise SystemExit(f"{name} {label} is wrong: {error(out, exact):.2e}")
    step = Step([(1, 3000 + 7 * at) for at in range(64)], BF16, 64)
    together, alone = (
        torch.empty(64, HQ, W, dtype=BF16, device="cuda"),
        torch.empty(1, HQ, W, dtype=BF16, device="cuda"),
    )
    step.decode(together)
    paged_decode_kernel(
        step.queries[:1], step.cache, step.table[:1], step.context_len[:1], step.scale, alone, longest_context=3001
    )
    print(f"a row alone and among 64: {'equal' if torch.equal(alone[0], together[0]) else 'DIFFERENT'}")


def time_decode(candidates: dict[str, Options]) -> list[str]:
    lines = [
        f"{'decode, us':<22}" + "".join(f"{name:>9}" for name in candidates) + "   torch  floor  share  TB/s  best"
    ]
    for count, mean in (
        (1, 300),
        (1, 4000),
        (1, 131072),
        (32, 1500),
        (128, 2500),
        (256, 4000),
        (400, 2500),
        (512, 1500),
    ):
        for dtype in (BF16, E4M3):
            contexts = [
                round(mean * (0.7 + 0.6 * at / max(count - 1, 1))) if count > 1 else mean for at in range(count)
            ]
            size = sum(contexts) * 2 * HK * W * dtype.itemsize
            steps = [Step([(1, c - 1) for c in contexts], dtype, count) for _ in range(min(12, 1 + int(200e6 // size)))]
            out = torch.empty(count, HQ, W, dtype=BF16, device="cuda")
            text, best_us, best = columns(candidates, [partial(step.decode, out) for step in steps])
            floor = size / BYTES_A_SECOND * 1e6
            # What torch gathers has the longest context's length, in f32 from E4M3: once, and not where it is huge.
            torchs = timed([partial(steps[0], paged_attention_ref)], 0) if size < 600e6 else float("nan")
            lines.append(
                f"{count:>4} x {mean:<6} {NAMES[dtype]:<8}{text}{torchs:>8.0f}{floor:>7.1f}"
                f"{floor / best_us:>7.0%}{size / best_us / 1e6:>6.2f}  {best}"
            )
            del steps
    return lines


def time_prefill(candidates: dict[str, Options]) -> list[str]:
    lines = [
        f"{'prefill, us':<22}" + "".join(f"{name:>9}" for name in candidates) + "    sdpa  floor  share  TFLOP/s  best"
    ]
    cases = {
        "2 x 8192": [(8192, 0)] * 2,
        "8192 behind 12288": [(8192, 12288)],
        "6 x 1500": [(1500, 0)] * 6,
        "4 x 375 behind 1500": [(375, 1500)] * 4,
    }
    for name, parts in cases.items():
        sdpa = torchs_prefill(*parts[0], len(parts))
        for dtype in (BF16, E4M3):
            step = Step(parts, dtype, 0)
            out = torch.empty(step.queries.shape, dtype=BF16, device="cuda")
            text, best_us, best = columns(candidates, [partial(step.prefill, out)] * 3)
            floor = step.flop / FLOP_A_SECOND * 1e6
            lines.append(
                f"{name[:-1] if len(name) > 19 else name:<18} {NAMES[dtype]}{text}{sdpa:>8.0f}{floor:>7.0f}"
                f"{floor / best_us:>7.0%}{step.flop / best_us / 1e6:>9.0f}  {best}"
            )
    return lines


def torchs_prefill(rows: int, before: int, count: int) -> float:
    """Best of torch's own ways on keys and values that lie one behind the other."""
    query = torch.randn(count, HQ, rows, W, dtype=BF16, device="cuda")
    key, value = torch.randn(2, count, HK, rows + before, W, dtype=BF16, device="cuda")
    mask: Options = {"is_causal": True}
    if before:
        from torch.nn.attention.bias import causal_lower_right

        mask = {"attn_mask": causal_lower_right(rows, rows + before)}
        key, value = (x.repeat_interleave(HQ // HK, 1) for x in (key, value))
    times = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            with sdpa_kernel(backend):
                call = partial(F.scaled_dot_product_attention, query, key, value, enable_gqa=key.shape[1] != HQ, **mask)
                times.append(timed([call] * 2))
        except Exception as problem:
            print(f"{backend}: {problem!s:.150}")
    return min(times, default=float("nan"))


def time_write() -> list[str]:
    lines = ["kv_write          us   torch  floor  share"]
    for tokens in (256, 2048, 16384):
        for dtype in (BF16, E4M3):
            slot = torch.randperm(64 * BLOCK, device="cuda")[:tokens] + BLOCK
            one, pairs = torch.ones(2, device="cuda"), []
            for _ in range(8):
                heads = torch.randn(tokens, HQ + 2 * HK, W, dtype=BF16, device="cuda")
                cache = torch.zeros(66, 2, BLOCK, HK, W, device="cuda").to(dtype)
                pairs.append((heads[:, HQ:-HK], heads[:, -HK:], cache))
            ours, torchs = (
                timed([partial(write, *pair, slot, one) for pair in pairs]) for write in (kv_write_kernel, kv_write_ref)
            )
            floor = tokens * 2 * HK * W * (2 + dtype.itemsize) / BYTES_A_SECOND * 1e6
            lines.append(f"{tokens:>6} {NAMES[dtype]:<6}{ours:>7.1f}{torchs:>8.1f}{floor:>7.1f}{floor / ours:>7.0%}")
    return lines


def compile_one(kind: str, name: str, dtype: torch.dtype) -> None:
    """In a process of its own, into Triton's cache."""
    with suppress(Exception):
        step = Step([(1, 3000)] if kind == "decode" else [(40, 0)], dtype, kind == "decode")
        out = torch.empty(step.queries.shape, dtype=BF16, device="cuda")
        if kind == "decode":
            step.decode(out, **DECODE[name])
        else:
            step.prefill(out, **PREFILL[name])
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    print(f"torch {torch.__version__}, triton {triton.__version__}, {torch.cuda.get_device_name()}", flush=True)
    decode, prefill = ({"default": {}}, {"default": {}}) if quick else (DECODE, PREFILL)
    jobs = [("decode", name) for name in decode] + [("prefill", name) for name in prefill]
    with ProcessPoolExecutor(12, mp_context=get_context("spawn")) as pool:
        todo = [pool.submit(compile_one, *job, dtype) for job in jobs for dtype in (BF16, E4M3)]
        for one in todo:
            one.result()
    check_writes()
    check_attention()
    for part in (partial(time_decode, decode), partial(time_prefill, prefill), time_write):
        try:
            print("\n".join(part()), flush=True)
        except Exception as problem:
            print(f"{problem!s:.400}", flush=True)


if __name__ == "__main__":
    main()
