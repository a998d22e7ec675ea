"""What stands around the large kernels, against its floor: norm, embedding, squared relu, sampling.

    python -m tests.benchmarks.kernels.small [norm embed relu sample]

First every kernel is compared with its reference at real sizes; a wrong one ends the run. Then each is timed in a CUDA
graph over several sets of inputs, together more than the L2 cache holds wherever a set is not tiny. The floor is the
bytes that must move at `COPY`.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.kernels import timing
from tests.benchmarks.kernels.timing import must, sets_of
from workers.engine.kernels import sample as sampling
from workers.engine.kernels.embed import embed_kernel, embed_ref
from workers.engine.kernels.rms_norm import E4M3, add_rms_norm_kernel, add_rms_norm_ref
from workers.engine.kernels.squared_relu import squared_relu_kernel, squared_relu_ref

D, SHARED, VOCAB = 2688, 3712, 131072
line = partial(timing.line, widths=(40, 44))


def main() -> None:
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, triton {triton.__version__}, {torch.cuda.get_device_name()}")
    parts = {"norm": (check_norm, time_norm), "embed": (check_embed, time_embed)}
    parts |= {"relu": (check_relu, time_relu), "sample": (check_sample, time_sample)}
    chosen = sys.argv[1:] or list(parts)
    for name in chosen:
        parts[name][0]()
    print(f"\n{'us':40} {'candidates':44} {'torch':>8} {'GB/s':>6} {'of floor':>8}")
    for name in chosen:
        parts[name][1]()


def bf16(*size: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(*size, device="cuda") * scale).bfloat16()


# --- norm ---------------------------------------------------------------------------------------------------------

SCALES = (0.02, 0.0017)


def scales_of(count: int) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(scale, device="cuda") for scale in SCALES[:count])


def check_norm() -> None:
    weight = bf16(D)
    for rows in (1, 255, 16384):
        residual, delta = bf16(rows, D), bf16(rows, D)
        ours, theirs = (
            one(residual, delta, weight, 1e-5, scales_of(2)) for one in (add_rms_norm_kernel, add_rms_norm_ref)
        )
        wide = ours.residual.double()
        exact = weight.double() * wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        errors = [float((one.value.double() - exact).norm() / exact.norm()) for one in (ours, theirs)]
        wrong = [
            int((codes.float() != (ours.value.float() / scale).clamp(-448, 448).to(E4M3).float()).sum())
            for codes, scale in zip(ours.codes, scales_of(2), strict=True)
        ]
        holds = torch.equal(ours.residual, theirs.residual) and errors[0] <= 2 * errors[1] and wrong == [0, 0]
        must(f"norm T{rows}", holds, f"error {errors[0]:.2e}, torch {errors[1]:.2e}, codes that differ {wrong}")
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16, device="cuda").view(torch.bfloat16).view(1, -1)
    values = torch.where(every.isfinite(), every, 0).relu_().sqrt_()
    apart = 0
    for scale in torch.rand(200, device="cuda") * 0.1 + 1e-4:
        for part in values.split(8192, dim=1):
            codes = [one(part.contiguous(), scale).float() for one in (squared_relu_kernel, squared_relu_ref)]
            apart += (codes[0] != codes[1]).sum()
    must("E4M3 of every bf16, 200 scales", int(apart) == 0, f"codes that differ {int(apart)}")
    rows, residual, delta = torch.randint(300, (40,), device="cuda"), bf16(300, D), bf16(300, D)
    ours, theirs = (one(residual, delta, weight, 1e-5, rows=rows) for one in (add_rms_norm_kernel, add_rms_norm_ref))
    off = float((ours.value.float() - theirs.value.float()).abs().max() / theirs.value.float().abs().max())
    must("norm of rows", torch.equal(ours.residual, theirs.residual) and off < 2**-8, f"largest difference {off:.1e}")


def time_norm() -> None:
    weight = bf16(D)
    for rows in (1, 32, 256, 2048, 16384):
        for count, value in ((0, True), (1, False), (2, True)):
            scales = scales_of(count)

            def run(residual: Tensor, delta: Tensor, warps: int, scales=scales, value=value) -> object:
                return add_rms_norm_kernel(residual, delta, weight, 1e-5, scales, value=value, warps=warps)

            def theirs(residual: Tensor, delta: Tensor, scales=scales) -> object:
                return add_rms_norm_ref(residual, delta, weight, 1e-5, scales)

            moved = rows * D * (6 + 2 * value + count)
            candidates = {f"w{warps}": lambda x, y, warps=warps, run=run: run(x, y, warps) for warps in (2, 4, 8)}
            sets = sets_of(lambda rows=rows: (bf16(rows, D), bf16(rows, D)), moved)
            line(f"norm T{rows} {'value ' * value}{count} codes", sets, moved, theirs, candidates)
    for rows in (32, 256):
        several = [(bf16(2048, D), bf16(2048, D), torch.randint(2048, (rows,), device="cuda")) for _ in range(10)]
        line(
            f"norm of {rows} rows in 2048", several, rows * D * 8,
            lambda x, y, at: add_rms_norm_ref(x, y, weight, 1e-5, rows=at),
            {f"w{warps}": lambda x, y, at, warps=warps: add_rms_norm_kernel(
                x, y, weight, 1e-5, rows=at, warps=warps) for warps in (2, 4, 8)},
        )  # fmt: skip


# --- embedding, squared relu ----------------------------------------------------------------------------------------


def embedded(rows: int, decodes: int, table: Tensor, media: Tensor) -> tuple:
    ids = torch.randint(VOCAB, (rows,), device="cuda")
    ids[:decodes] = -1
    media_row = torch.where(
        torch.rand(rows, device="cuda") < 0.5, torch.randint(len(media), (rows,), device="cuda"), -1
    )
    media_row[:decodes] = -1
    last = torch.randint(VOCAB, (400,), device="cuda")
    return ids, torch.randint(400, (decodes,), device="cuda"), media_row, last, media, table, decodes


def check_embed() -> None:
    table, media = bf16(VOCAB, D), bf16(20000, D)
    for rows, decodes in ((1, 1), (256, 256), (16384, 100)):
        args = embedded(rows, decodes, table, media)
        must(f"embed T{rows}", torch.equal(embed_kernel(*args), embed_ref(*args)), "equal")


def time_embed() -> None:
    table, media = bf16(VOCAB, D), bf16(20000, D)
    for rows, decodes in ((1, 1), (256, 256), (16384, 100)):
        moved = rows * D * 4
        sets = sets_of(lambda rows=rows, decodes=decodes: embedded(rows, decodes, table, media), moved)
        candidates = {f"w{warps}": lambda *args, warps=warps: embed_kernel(*args, warps=warps) for warps in (2, 4, 8)}
        line(f"embed T{rows}, {decodes} decode", sets, moved, embed_ref, candidates)


def check_relu() -> None:
    for rows in (1, 255, 16384):
        x = bf16(rows, SHARED, scale=4.0)
        same = [
            torch.equal(squared_relu_kernel(x, scale).float(), squared_relu_ref(x, scale).float())
            for scale in (None, *scales_of(1))
        ]
        must(f"squared relu T{rows}", same == [True, True], "equal")


def time_relu() -> None:
    for rows in (1, 256, 16384):
        for scale in (None, *scales_of(1)):
            moved = rows * SHARED * (4 if scale is None else 3)
            candidates = {
                f"w{warps}": lambda x, scale=scale, warps=warps: squared_relu_kernel(x, scale, warps=warps)
                for warps in (2, 4, 8)
            }
            name = f"squared relu T{rows} {'bf16' if scale is None else 'codes'}"
            sets = sets_of(lambda rows=rows: (bf16(rows, SHARED),), moved)
            line(name, sets, moved, lambda x, scale=scale: squared_relu_ref(x, scale), candidates)


# --- sampling -------------------------------------------------------------------------------------------------------


def drawn(rows: int, dtype: torch.dtype, heat: float, top_p: float, top_k: int, spread: float, masks: int = 0) -> tuple:
    logits = (torch.randn(rows, VOCAB, device="cuda") * spread).to(dtype)
    floats = [torch.full((rows,), one, device="cuda") for one in (heat, top_p)]
    seed, position = (torch.randint(-(2**62), 2**62, (rows,), device="cuda") for _ in range(2))
    mask_row = torch.full((rows,), -1, dtype=torch.int32, device="cuda")
    if masks:
        mask_row = torch.arange(rows, device="cuda", dtype=torch.int32) % masks
    words = torch.randint(-(2**31), 2**31, (masks, VOCAB // 32), device="cuda").int()
    forced = torch.full((rows,), -1, device="cuda")
    return (
        logits, *floats, torch.full((rows,), top_k, dtype=torch.int32, device="cuda"), seed, position, forced, mask_row,
        words,
    )  # fmt: skip


def check_sample() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        for heat, top_p, top_k in ((1.0, 1.0, 0), (0.6, 0.95, 0), (1.0, 0.1, 0), (1.0, 1.0, 50), (1.0, 0.8, 1000)):
            args = drawn(64, dtype, heat, top_p, top_k, 2.0, masks=3 if top_p < 0.9 else 0)
            ours, theirs = sampling.sample_kernel(*args), sampling.sample_ref(*args)
            name, apart = f"sample {str(dtype)[6:]} T{heat} p{top_p} k{top_k}", int((ours != theirs).sum())
            alone = sampling.sample_kernel(*[one[5:6] for one in args[:-1]], args[-1])
            must(name, apart <= 2 and bool(alone[0] == ours[5]), f"{apart} of 64 differ; row 5 alone is row 5")
        args = drawn(64, dtype, 1.0, 1.0, 0, 2.0, masks=3)
        same = torch.equal(sampling.sample_kernel(*args, greedy=True), sampling.sample_ref(*args, greedy=True))
        must(f"greedy {str(dtype)[6:]}", same, "equal")
    # 200,000 draws of ten ids with 2/3 of the weight, among a vocabulary with the rest.
    args = list(drawn(500, torch.float32, 1.0, 1.0, 0, 0.0))
    args[0][:, :10] += torch.log(torch.arange(1, 11, device="cuda") * VOCAB * 2 / 55)
    counts = torch.zeros(VOCAB, device="cuda")
    for _ in range(400):
        args[5] += 1
        counts += torch.bincount(sampling.sample_kernel(*args), minlength=VOCAB)
    share = F.softmax(args[0][0].double(), -1)[:10]
    sigmas = (counts[:10] / 2e5 - share) / (share * (1 - share) / 2e5).sqrt()
    must("frequencies", float(sigmas.abs().max()) < 4.5, f"at most {float(sigmas.abs().max()):.1f} standard errors off")


def torch_way(logits: Tensor, heat: Tensor, top_p: Tensor, *_: Tensor) -> Tensor:
    """Sort, cut, draw, without masks."""
    ordered, order = logits.float().div(heat[:, None]).sort(-1, descending=True)
    share = ordered.softmax(-1)
    share.masked_fill_(share.cumsum(-1) - share >= top_p[:, None], 0.0)
    return order.gather(1, (share / torch.empty_like(share).exponential_()).argmax(-1, keepdim=True))


def time_sample() -> None:
    half, wide = torch.bfloat16, torch.float32
    cases = [
        ("greedy", half, (1, 32, 256), (0.0, 1.0, 0, 2.0)),
        ("p1", half, (1, 32, 256, 512), (1.0, 1.0, 0, 1.0)),
        ("p0.95 flat", half, (1, 32, 256), (1.0, 0.95, 0, 1.0)),
        ("p0.95 T0.6 steep", half, (256,), (0.6, 0.95, 0, 3.0)),
        ("k50", half, (1, 256), (1.0, 1.0, 50, 2.0)),
        ("p1 masked", half, (256,), (1.0, 1.0, 0, 1.0, 8)),
        ("p1 f32", wide, (256,), (1.0, 1.0, 0, 1.0)),
        ("p0.95 f32", wide, (256,), (1.0, 0.95, 0, 1.0)),
    ]
    for name, dtype, sizes, params in cases:
        for rows in sizes:
            moved = rows * VOCAB * dtype.itemsize
            sets = sets_of(lambda rows=rows, dtype=dtype, params=params: drawn(rows, dtype, *params), moved, most=16)
            greedy = name == "greedy"
            candidates = {
                label: lambda *args, sizes=sizes, greedy=greedy: sized(*sizes)(*args, greedy=greedy)
                for label, sizes in candidates_of(name, dtype).items()
            }
            theirs = (lambda x, *_: x.argmax(-1)) if greedy else torch_way
            line(f"sample {name} S{rows}", sets, moved, theirs if rows in (1, 256) else None, candidates)


def candidates_of(name: str, dtype: torch.dtype) -> dict[str, tuple[int, int, int]]:
    """Warps of a chunk, warps of a row, logits a row's program reads at once."""
    if name in ("greedy", "p1"):
        return {"4": (4, 16, 4096), "8": (8, 16, 4096)}
    if dtype == torch.float32:
        return {"16": (4, 16, 4096), "8": (4, 8, 4096)}
    return {"16": (4, 16, 4096), "8": (4, 8, 4096), "32": (4, 32, 8192), "16x8k": (4, 16, 8192)}


def sized(warps: int, row_warps: int, tile: int) -> Callable[..., Tensor]:
    def run(*args: Tensor, greedy: bool) -> Tensor:
        sampling.TILE = tile
        return sampling.sample_kernel(*args, greedy=greedy, warps=warps, row_warps=row_warps)

    return run


if __name__ == "__main__":
    main()
