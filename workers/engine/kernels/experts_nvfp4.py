"""The chosen experts of every token with NVFP4 weights, activations as they come.

Two codes of 4 bits lie in a byte, the even column in the low half: sign, two bits of exponent, one of mantissa. A scale
in E4M3 belongs to 16 columns of a row, another one in fp32 to the expert. On a card with few rows an expert the codes
are turned into numbers in registers, between shared memory and the tensor cores; with many, all of them once for the
call.

A word of 32 bits holds eight columns. Shifted and masked, it gives the columns (0, 4), then (1, 5), (2, 6), (3, 7), as
pairs of bf16 that are too small by 2^126, for three bits of a code are the last ones of an exponent and the first of a
mantissa. So four products are added, over a fourth of the columns each, and what they meet is kept in that order:

    column 8 w + 4 h + j    stands at    j (in / 4) + 2 w + h

A block scale becomes bf16 in the same way, its bits four further up, and is multiplied by 2^118 on the way; the missing
2^8 come with the scale of the expert. Two bits times four are exact in bf16.

Source: spec 2.3, 8.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.kernels.by_expert import Sorted, by_expert
from workers.engine.kernels.experts import experts
from workers.engine.kernels.grouped_mm import Tile, _rows_of
from workers.engine.kernels.jit import HAVE_TRITON, jit, kernels_run, tl, triton
from workers.engine.kernels.route import Routing
from workers.engine.kernels.weighted_sum import weighted_sum

# Mean of rows an expert has, beyond which its weights are turned into numbers for the call.
FEW_ROWS = 128
DEPTH = 128  # columns read at a time: eight block scales
BLOCK = 16  # columns that share a scale
AT_ONCE = 16  # experts whose numbers lie in fp32 at one time


def experts_nvfp4(
    x: Tensor,
    routing: Routing,
    up: Tensor,
    up_block_scale: Tensor,
    up_scale: Tensor,
    down: Tensor,
    down_block_scale: Tensor,
    down_scale: Tensor,
    shared: Tensor | None = None,
) -> Tensor:
    """Weighted sum over the chosen experts.

    Args:
        x: [T, D].
        routing: [T, k] experts and their weights.
        up: [E, F, D / 2] bytes.
        down: [E, D, F / 2] bytes.
        up_block_scale, down_block_scale: [E, F, D / 16] and [E, D, F / 16] E4M3, row-major, or as `repacked` lays them
            out for the kernel.
        up_scale, down_scale: [E] f32.
        shared: [T, D], added to the sum.

    Returns:
        [T, D] of the dtype of x; added up in fp32.
    """
    few = routing.experts.numel() <= FEW_ROWS * len(up)
    whole = up.shape[2] % 8 == down.shape[2] % 8 == 0
    if kernels_run(x) and x.dtype == torch.bfloat16 and few and whole:
        return experts_nvfp4_kernel(
            x, routing, up, up_block_scale, up_scale, down, down_block_scale, down_scale, shared
        )  # fmt: skip
    whole_up = dequantised(up, up_block_scale, up_scale, x.dtype)
    return experts(x, routing, whole_up, dequantised(down, down_block_scale, down_scale, x.dtype), shared)


def experts_nvfp4_kernel(
    x: Tensor,
    routing: Routing,
    up: Tensor,
    up_block_scale: Tensor,
    up_scale: Tensor,
    down: Tensor,
    down_block_scale: Tensor,
    down_scale: Tensor,
    shared: Tensor | None = None,
) -> Tensor:
    """For few rows an expert."""
    pairs, top_k = by_expert(routing.experts, len(up)), routing.experts.shape[1]
    hidden = grouped_nvfp4(in_fourths(x), up, up_block_scale, up_scale, pairs, top_k)
    out = grouped_nvfp4(hidden, down, down_block_scale, down_scale, pairs, 0)
    return weighted_sum(out, pairs.place, routing.weights, shared)


def in_fourths(x: Tensor) -> Tensor:
    """[T, D] with the columns in the order in which the kernel meets them."""
    return x.unflatten(1, (-1, 2, 4)).permute(0, 3, 1, 2).flatten(1)


def repacked(block_scale: Tensor) -> Tensor:
    """[E, ceil(in / 128), out, 8]: eight scales of a row beside those of the next, as a tile reads them.

    From [E, out, in / 16] E4M3; what is added at the end is zero.
    """
    experts, out, blocks = block_scale.shape
    wide = torch.zeros(experts, out, -(-blocks // 8) * 8, dtype=torch.uint8, device=block_scale.device)
    wide[..., :blocks] = block_scale.view(torch.uint8)
    return wide.unflatten(-1, (-1, 8)).transpose(1, 2).contiguous().view(block_scale.dtype)


def row_major(block_scale: Tensor, blocks: int) -> Tensor:
    """[E, out, in / 16] from either layout."""
    if block_scale.ndim == 3:
        return block_scale
    return block_scale.view(torch.uint8).transpose(1, 2).flatten(2)[..., :blocks].view(block_scale.dtype)


def tile_for(pairs: int, experts: int) -> Tile:
    rows = next(rows for rows in (16, 32, 64) if pairs <= 0.6 * rows * experts or rows == 64)
    return Tile(rows, 64 if rows < 64 else 128, DEPTH // 2, 4 if rows < 64 else 8, 4)


def grouped_nvfp4(
    x: Tensor,
    weight: Tensor,
    block_scale: Tensor,
    scale: Tensor,
    pairs: Sorted,
    top_k: int,
    tile: Tile | None = None,
) -> Tensor:
    """Rows times the weight of their expert: [T k, out] of the dtype of x.

    Args:
        x: [T, in] going up (`top_k` above zero), else [T k, in]; its columns `in_fourths`.
        weight: [E, out, in / 2] bytes.
        block_scale: [E, out, in / 16] or `repacked`.
        scale: [E] f32.

    Returns:
        Going up, squared and with its columns in fourths; else as they are.
    """
    experts, n, half = weight.shape
    count = len(pairs.order)
    tile = tile or tile_for(count, experts)
    out = torch.empty(count, n, dtype=x.dtype, device=x.device)
    tiles = min(count, count // tile.rows + experts)
    if tiles:
        blocks = half // 8
        row, step = (8, 8 * n) if block_scale.ndim == 4 else (blocks, 8)
        _grouped_nvfp4[(tiles * triton.cdiv(n, tile.cols),)](
            x, weight.view(torch.int32), block_scale.view(torch.uint8), out, pairs.order, pairs.ends, scale,
            N=n, K=2 * half, EXPERTS=experts, PADDED=triton.next_power_of_2(experts), TOP_K=top_k,
            SCALES=block_scale.stride(0), SCALE_ROW=row, SCALE_STEP=step, ROWS=tile.rows, COLS=tile.cols, DEPTH=DEPTH,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out


_SCALE = """{
.reg .b32 t, c;
mul.lo.u32 t, $1, 0x00100010;
mov.b32 c, 0x7F007F00;
mul.bf16x2 t, t, c;
mov.b32 c, 0x77007700;
mul.bf16x2 $0, t, c;
}"""
_PAIR = """
{low} t, $8, {by_low};
{sign} u, $8, {by_sign};
and.b32 t, t, 0x01C001C0;
lop3.b32 v, u, 0x80008000, t, 0xEA;
mul.bf16x2 v, v, $9;
mov.b32 {{${first}, ${second}}}, v;"""
_SHIFTS = (("shl.b32", 6, 12), ("shl.b32", 2, 8), ("shr.b32", 2, 4), ("shr.b32", 6, 0))
_UNPACK = (
    "{\n.reg .b32 t, u, v;"
    + "".join(
        _PAIR.format(low=low, by_low=by_low, sign="shl.b32", by_sign=by_sign, first=2 * at, second=2 * at + 1)
        for at, (low, by_low, by_sign) in enumerate(_SHIFTS)
    )
    + "\n}"
)
if HAVE_TRITON:  # a kernel sees constants of its module only if they say that they are
    _SCALE, _UNPACK = tl.constexpr(_SCALE), tl.constexpr(_UNPACK)  # pyright: ignore[reportCallIssue]


@jit
def _grouped_nvfp4(
    x, weight, block_scale, out, order, ends, scale,
    N: tl.constexpr, K: tl.constexpr, EXPERTS: tl.constexpr, PADDED: tl.constexpr, TOP_K: tl.constexpr,
    SCALES: tl.constexpr, SCALE_ROW: tl.constexpr, SCALE_STEP: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    across: tl.constexpr = (N + COLS - 1) // COLS
    WORDS: tl.constexpr = DEPTH // 8
    FOURTH: tl.constexpr = DEPTH // 4
    BLOCKS: tl.constexpr = DEPTH // 16
    tile, column = tl.program_id(0) // across, tl.program_id(0) % across
    expert, row, end = _rows_of(tile, ends, EXPERTS, PADDED, ROWS)
    if expert >= EXPERTS:
        return
    rows = row + tl.arange(0, ROWS)
    live = rows < end
    source = tl.load(order + rows, mask=live, other=0) // TOP_K if TOP_K > 0 else rows
    cols = column * COLS + tl.arange(0, COLS)
    each = tl.minimum(cols, N - 1)[:, None]
    word, fourth, block = tl.arange(0, WORDS), tl.arange(0, FOURTH), tl.arange(0, BLOCKS)
    x_at = x + source.to(tl.int64)[:, None] * K + fourth[None, :]
    w_at = weight + expert.to(tl.int64) * (N * K // 8) + each * (K // 8) + word[None, :]
    s_at = block_scale + expert.to(tl.int64) * SCALES + each * SCALE_ROW + block[None, :]
    acc = tl.zeros([COLS, ROWS], tl.float32)
    for step in range((K + DEPTH - 1) // DEPTH):
        if K % DEPTH == 0:
            seen = live[:, None]
            words = tl.load(w_at + step * WORDS)
            scales = tl.load(s_at + step * SCALE_STEP)
        else:
            seen = live[:, None] & (fourth[None, :] < K // 4 - step * FOURTH)
            words = tl.load(w_at + step * WORDS, mask=word[None, :] < K // 8 - step * WORDS, other=0)
            scales = tl.load(s_at + step * SCALE_STEP, mask=block[None, :] < K // 16 - step * BLOCKS, other=0)
        x0 = tl.load(x_at + step * FOURTH, mask=seen, other=0.0)
        x1 = tl.load(x_at + K // 4 + step * FOURTH, mask=seen, other=0.0)
        x2 = tl.load(x_at + K // 2 + step * FOURTH, mask=seen, other=0.0)
        x3 = tl.load(x_at + K // 4 * 3 + step * FOURTH, mask=seen, other=0.0)
        pair = tl.inline_asm_elementwise(_SCALE, "=r,r", [scales.to(tl.int32)], dtype=tl.int32, is_pure=True, pack=1)
        pair = tl.reshape(tl.broadcast_to(pair[:, :, None], [COLS, BLOCKS, 2]), [COLS, WORDS])
        a0, b0, a1, b1, a2, b2, a3, b3 = tl.inline_asm_elementwise(
            _UNPACK, "=h,=h,=h,=h,=h,=h,=h,=h,r,r", [words, pair], dtype=(tl.bfloat16,) * 8, is_pure=True, pack=1
        )
        acc = tl.dot(tl.reshape(tl.join(a0, b0), [COLS, FOURTH]), x0.T, acc)
        acc = tl.dot(tl.reshape(tl.join(a1, b1), [COLS, FOURTH]), x1.T, acc)
        acc = tl.dot(tl.reshape(tl.join(a2, b2), [COLS, FOURTH]), x2.T, acc)
        acc = tl.dot(tl.reshape(tl.join(a3, b3), [COLS, FOURTH]), x3.T, acc)
    acc *= tl.load(scale + expert) * 256.0
    if TOP_K > 0:
        acc = tl.maximum(acc, 0.0)
        acc *= acc
        at = cols % 4 * (N // 4) + cols // 8 * 2 + cols % 8 // 4
    else:
        at = cols
    at = rows.to(tl.int64)[None, :] * N + at[:, None]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=live[None, :] & (cols < N)[:, None])


def dequantised(packed: Tensor, block_scale: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """[E, out, in] of `dtype`."""
    kernel = kernels_run(packed)
    return (dequantised_kernel if kernel else dequantised_ref)(packed, block_scale, scale, dtype)


def dequantised_ref(packed: Tensor, block_scale: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    count, out, half = packed.shape
    block_scale = row_major(block_scale, 2 * half // BLOCK)
    whole = torch.empty(count, out, 2 * half, dtype=dtype, device=packed.device)
    for at in range(0, count, AT_ONCE):
        part = slice(at, at + AT_ONCE)
        by_block = (0.5 * scale[part, None, None]) * block_scale[part].float()
        blocks = halves(packed[part]).unflatten(-1, (-1, BLOCK)) * by_block[..., None]
        whole[part] = blocks.flatten(-2)
    return whole


def halves(packed: Tensor) -> Tensor:
    """[..., in] int8: twice the number of each code. In whole numbers, for a table would have to come from the host."""
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).to(torch.int8)
    exponent, mantissa = (codes >> 1) & 3, codes & 1
    normal = (2 + mantissa) << (exponent - 1).clamp_min(0)
    return normal.where(exponent > 0, mantissa) * (1 - ((codes >> 2) & 2))


def dequantised_kernel(packed: Tensor, block_scale: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    experts, out, half = packed.shape
    whole = torch.empty(experts, out, 2 * half, dtype=dtype, device=packed.device)
    blocks = half // 8
    row, step = (8, 8 * out) if block_scale.ndim == 4 else (blocks, 8)
    _dequantised[(out, experts, triton.cdiv(half, 1024))](
        packed, block_scale, scale, whole,
        OUT=out, HALF=half, SCALES=block_scale.stride(0), SCALE_ROW=row, SCALE_STEP=step, BLOCK=1024, num_warps=4,
    )  # fmt: skip
    return whole


@jit
def _dequantised(
    packed, block_scale, scale, whole,
    OUT: tl.constexpr, HALF: tl.constexpr, SCALES: tl.constexpr, SCALE_ROW: tl.constexpr, SCALE_STEP: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row, expert = tl.program_id(0), tl.program_id(1).to(tl.int64)
    byte = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = byte < HALF
    at = (expert * OUT + row) * HALF
    codes = tl.load(packed + at + byte, mask=inside, other=0).to(tl.int32)
    block = block_scale + expert * SCALES + row * SCALE_ROW + byte // 64 * SCALE_STEP + byte // 8 % 8
    by = tl.load(block, mask=inside, other=0.0).to(tl.float32) * tl.load(scale + expert)
    both = tl.reshape(tl.join(_number(codes & 15) * by, _number(codes >> 4) * by), [2 * BLOCK])
    column = tl.program_id(2) * (2 * BLOCK) + tl.arange(0, 2 * BLOCK)
    tl.store(whole + 2 * at + column, both.to(whole.dtype.element_ty), mask=column < 2 * HALF)


@jit
def _number(code):
    """f32 of a code: its bits are those of an fp16 that is too small by 2^14."""
    bits = ((code & 8) << 12) | ((code & 7) << 9)
    return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32) * 16384.0
