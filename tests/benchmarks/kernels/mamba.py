"""What a Mamba-2 mixer does between its two projections, against its floor: convolution, step, gated norm.

    python -m tests.benchmarks.kernels.mamba [step conv norm]

First every kernel is compared with its reference and with fp64 at real sizes; a wrong one ends the run. Then each is
timed in a CUDA graph over several sets of inputs, together more than the L2 cache holds. The floor is the bytes that
must move at `COPY`.
"""

import sys
from collections.abc import Sequence
from functools import partial

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.kernels import timing
from tests.benchmarks.kernels.timing import COLD, must, sets_of
from workers.engine.kernels import causal_conv as conv
from workers.engine.kernels import gated_norm as norm
from workers.engine.kernels import ssm_step as step

HEADS, WIDTH, SIZE, GROUPS, TAPS, RING = 64, 64, 128, 8, 4, 4
INNER, BOTH = HEADS * WIDTH, GROUPS * SIZE
XB, CHANNELS, PROJECTED = INNER + BOTH, INNER + 2 * BOTH, 2 * INNER + 2 * BOTH + HEADS
SLOTS = 513
line = partial(timing.line, widths=(26, 76))


def main() -> None:
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, triton {triton.__version__}, {torch.cuda.get_device_name()}")
    parts = {"step": (check_step, time_step), "conv": (check_conv, time_conv), "norm": (check_norm, time_norm)}
    chosen = sys.argv[1:] or list(parts)
    for name in chosen:
        parts[name][0]()
    print(f"\n{'us':26} {'candidates':76} {'torch':>8} {'GB/s':>6} {'of floor':>8}")
    for name in chosen:
        parts[name][1]()


def off(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def bf16(*size: int) -> Tensor:
    return torch.randn(*size, device="cuda").bfloat16()


class Layer:
    """A layer's numbers and pools with `rows` rows to a window. What was never written is NaN."""

    def __init__(self, rows: int, slots: int = SLOTS) -> None:
        self.rows = rows
        self.a = -torch.rand(HEADS, device="cuda") * 4
        self.d, self.dt_bias = torch.randn(HEADS, device="cuda"), torch.randn(HEADS, device="cuda") - 2
        self.state = torch.randn(slots, HEADS, WIDTH, SIZE, device="cuda")
        self.window_xb = bf16(slots, rows, XB)
        self.window_dt = torch.rand(slots, rows, HEADS, device="cuda")
        for pool in (self.state, self.window_xb, self.window_dt):
            pool[0] = torch.nan

    def step(self, slots: Tensor) -> tuple[Tensor, ...]:
        """Rows of these slots, every phase of the window as often as any other."""
        length = torch.arange(len(slots), device="cuda") % self.rows
        length = length[torch.randperm(len(length), device="cuda")]
        dt = bf16(len(slots), PROJECTED)[:, -HEADS:]
        return bf16(len(slots), CHANNELS), dt, slots, length, length == self.rows - 1

    def args(self, xbc: Tensor, dt: Tensor, *step: Tensor) -> tuple[Tensor, ...]:
        return xbc, dt, self.a, self.d, self.dt_bias, self.state, self.window_xb, self.window_dt, *step

    def exact(self, xbc: Tensor, dt: Tensor, slots: Tensor, length: Tensor, flush: Tensor) -> tuple[Tensor, Tensor]:
        """Y and the new states, row by row of the window, in fp64."""
        now = F.softplus(dt.double() + self.dt_bias.double())
        h = self.state[slots].double()
        for at in range(self.rows):
            old = (at < length)[:, None]
            xb = torch.where(old, self.window_xb[slots, at], xbc[:, :XB]).double()
            time = torch.where(old, self.window_dt[slots, at].double(), now)
            x, b = xb[:, :INNER].unflatten(1, (HEADS, WIDTH)), self._heads(xb[:, INNER:])
            after = (time * self.a.double()).exp()[..., None, None] * h
            after += (time[..., None] * x)[..., None] * b[:, :, None]
            h = torch.where((at <= length)[:, None, None, None], after, h)
        y = (h @ self._heads(xbc[:, XB:].double())[..., None])[..., 0]
        return (y + self.d.double()[:, None] * xbc[:, :INNER].double().unflatten(1, (HEADS, WIDTH))).flatten(1), h

    def _heads(self, grouped: Tensor) -> Tensor:
        return grouped.unflatten(1, (GROUPS, SIZE)).repeat_interleave(HEADS // GROUPS, 1)


def check_step() -> None:
    for rows in (1, 8, 16):
        ours, slots = Layer(rows, 80), torch.randperm(79, device="cuda")[:67] + 1
        slots[[3, 40]] = 0
        one = ours.step(slots)
        one[3][[3, 40]] = 0
        unwritten = torch.arange(rows, device="cuda") >= one[3][:, None]
        for pool in (ours.window_xb, ours.window_dt):
            pool[slots] = pool[slots].masked_fill(unwritten[..., None], torch.nan)
        y, h = ours.exact(*one)
        theirs = Layer(rows, 80)
        for name, value in vars(ours).items():
            setattr(theirs, name, value.clone() if isinstance(value, Tensor) else value)
        got, ref = step.ssm_step_kernel(*ours.args(*one)), step.ssm_step_ref(*theirs.args(*one))
        real = slots > 0
        low = [off(each[real], y[real]) for each in (got, ref)]
        written = real & one[4]
        states = [off(each.state[slots[written]], h[written]) for each in (ours, theirs)]
        pools = [(getattr(ours, name), getattr(theirs, name)) for name in ("state", "window_xb", "window_dt")]
        clean = all(torch.equal(mine.isnan(), its.isnan()) for mine, its in pools)
        same = all(torch.allclose(mine, its, rtol=1e-4, atol=1e-5, equal_nan=True) for mine, its in pools)
        holds = low[0] <= 2 * low[1] and states[0] <= 2 * states[1] + 1e-7 and clean and same
        said = f"y {low[0]:.2e}, torch {low[1]:.2e}; state {states[0]:.2e}, torch {states[1]:.2e}; same pools {same}"
        must(f"step V{rows}", holds, said)


STEP_TILES = [step.Tile(64, 4), step.Tile(64, 8), step.Tile(32, 4), step.Tile(32, 2), step.Tile(16, 2)]


def time_step() -> None:
    for rows, counts in ((1, (256,)), (8, (32, 128, 256, 512)), (16, (32, 128, 256, 512))):
        layer = Layer(rows)
        for count in counts:
            shuffled = torch.randperm(SLOTS - 1, device="cuda") + 1
            sets = [layer.step(slots) for slots in shuffled.split(count)]
            row = (XB * 2 + HEADS * 4) * (1 + (rows - 1) / 2) + CHANNELS * 2 + INNER * 2
            moved = count * (INNER * SIZE * 4 * (1 + 1 / rows) + row)

            def ours(*one: Tensor, tile: step.Tile, layer=layer) -> object:
                return step.ssm_step_kernel(*layer.args(*one), tile=tile)

            def theirs(*one: Tensor, layer=layer) -> object:
                return step.ssm_step_ref(*layer.args(*one))

            tiles = {f"{t.channels}/{t.warps}": lambda *one, t=t, ours=ours: ours(*one, tile=t) for t in STEP_TILES}
            line(f"step V{rows} S{count}", sets, moved, theirs, tiles)
        del layer
        torch.cuda.empty_cache()


def launch(counts: Sequence[int], starts: Sequence[int], slots: Sequence[int]) -> tuple[Tensor, ...]:
    positions = torch.cat([start + torch.arange(count) for count, start in zip(counts, starts, strict=True)])
    ends = torch.tensor([0, *counts]).cumsum(0)
    return positions.cuda(), ends.cuda(), torch.tensor(slots).cuda()


def weights() -> tuple[Tensor, Tensor]:
    return bf16(TAPS, CHANNELS).t(), bf16(CHANNELS)


def conv_input(tokens: int) -> Tensor:
    return bf16(tokens, PROJECTED)[:, INNER : INNER + CHANNELS]


def check_conv() -> None:
    cases = {
        "decode": ([1] * 190, range(40, 230), [*range(1, 190), 0]),
        "prefill": ([4097, 1, 2, 3, 1500, 7], [0, 3, 3, 3, 8192, 0], [1, 2, 3, 4, 5, 0]),
        "mixed": ([1] * 64 + [700, 5], [*range(64), 64, 0], [*range(1, 66), 0]),
    }
    for name, case in cases.items():
        where, (weight, bias) = launch(*case), weights()
        x, ring = conv_input(len(where[0])), bf16(SLOTS, RING, CHANNELS)
        ring[0] = torch.nan
        rings = [ring.clone() for _ in range(3)]
        got = conv.causal_conv_kernel(x, weight, bias, rings[0], *where)
        ref = conv.causal_conv_ref(x, weight, bias, rings[1], *where)
        wide = conv.causal_conv_ref(*(each.float() for each in (x, weight, bias, rings[2])), *where)
        slot = where[2][torch.searchsorted(where[1], torch.arange(len(x), device="cuda"), right=True) - 1]
        errors = [off(each[slot > 0], wide[slot > 0]) for each in (got, ref)]
        same = torch.equal(rings[0].nan_to_num(), rings[1].nan_to_num()) and bool(rings[0][0].isnan().all())
        must(
            f"conv {name}", errors[0] <= 2 * errors[1] and same,
            f"{errors[0]:.2e}, torch {errors[1]:.2e}; same rings {same}",
        )  # fmt: skip


CONV_TILES = [conv.Tile(1024, 1, 8, 4), conv.Tile(1024, 1, 4, 4), conv.Tile(512, 1, 8, 2), conv.Tile(256, 1, 8, 1),
              conv.Tile(1024, 2, 8, 4), conv.Tile(2048, 1, 4, 8)]  # fmt: skip


def time_conv() -> None:
    weight, bias = weights()
    rings = [bf16(SLOTS, RING, CHANNELS) for _ in range(8)]
    for decodes, prefills in ((32, []), (256, []), (512, []), (256, [2048]), (0, [2048]), (0, [8192] * 2)):
        counts = [1] * decodes + prefills
        tokens, slots = sum(counts), list(range(1, len(counts) + 1))
        where = launch(counts, [100] * decodes + [0] * len(prefills), slots)
        moved = CHANNELS * 2 * (2 * tokens + decodes * TAPS + 4 * RING * len(prefills))
        count = max(2, min(24, round(COLD / moved) + 1))
        sets = [(conv_input(tokens), rings[at % len(rings)]) for at in range(count)]

        def ours(x: Tensor, ring: Tensor, tile: conv.Tile, where=where) -> object:
            return conv.causal_conv_kernel(x, weight, bias, ring, *where, tile=tile)

        def theirs(x: Tensor, ring: Tensor, where=where) -> object:
            return conv.causal_conv_ref(x, weight, bias, ring, *where)

        tiles = {
            f"{t.channels}.{t.sequences}.{t.rows}/{t.warps}": lambda x, ring, t=t, ours=ours: ours(x, ring, t)
            for t in CONV_TILES
        }
        line(f"conv {decodes} + {'+'.join(map(str, prefills)) or 0}", sets, moved, theirs, tiles)


def check_norm() -> None:
    weight, scale = bf16(INNER), torch.tensor(0.013, device="cuda")
    for tokens in (1, 255, 4097):
        x, gate = bf16(tokens, INNER), bf16(tokens, PROJECTED)[:, :INNER]
        got, ref = (each(x, gate, weight, GROUPS, 1e-5) for each in (norm.gated_norm_kernel, norm.gated_norm_ref))
        codes = norm.gated_norm_kernel(x, gate, weight, GROUPS, 1e-5, scale)
        gated = (x.double() * F.silu(gate.double())).unflatten(1, (GROUPS, -1))
        exact = weight.double() * (gated / (gated.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(1)
        errors = [off(each, exact) for each in (got, ref)]
        wanted = (got.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        wrong = int((codes.float() != wanted.float()).sum())
        must(
            f"norm T{tokens}", errors[0] <= 2 * errors[1] and wrong == 0,
            f"{errors[0]:.2e}, torch {errors[1]:.2e}, codes that differ {wrong}",
        )  # fmt: skip


NORM_TILES = [norm.Tile(1, 1), norm.Tile(4, 4), norm.Tile(8, 4), norm.Tile(8, 8), norm.Tile(16, 8)]


def time_norm() -> None:
    weight, scale = bf16(INNER), torch.tensor(0.013, device="cuda")
    for by in (None, scale):
        for tokens in (32, 256, 2048, 16384):
            moved = tokens * INNER * (6 if by is None else 5)
            sets = sets_of(lambda tokens=tokens: (bf16(tokens, INNER), bf16(tokens, PROJECTED)[:, :INNER]), moved)

            def theirs(x: Tensor, gate: Tensor, by=by) -> object:
                return norm.gated_norm_ref(x, gate, weight, GROUPS, 1e-5, by)

            tiles = {
                f"{t.groups}/{t.warps}": lambda x, gate, t=t, by=by: norm.gated_norm_kernel(
                    x, gate, weight, GROUPS, 1e-5, by, tile=t
                )
                for t in NORM_TILES
            }
            line(f"norm T{tokens} {'bf16' if by is None else 'E4M3'}", sets, moved, theirs, tiles)


if __name__ == "__main__":
    main()
