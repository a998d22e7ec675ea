"""Keys and values of a step into the pages of the cache.

Source: spec 2.4, 8.1, 8.3 (an E4M3 cache has scale 1 unless the checkpoint brings one).
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.kernels.jit import jit, kernels_run, tl, triton
from workers.engine.kernels.quantise import E4M3, E4M3_MAX

ROWS = 8  # of a program: 8 KB to read, enough programs already for a few hundred rows


def kv_write(keys: Tensor, values: Tensor, cache: Tensor, kv_slot: Tensor, scale: Tensor) -> None:
    """Writes `cache` in place; rows of slot 0 are not written.

    Args:
        keys, values: [T, Hk, W].
        cache: [blocks, 2, block, Hk, W] of their dtype, or E4M3.
        kv_slot: [T] int64, block * size of a block + place in it; 0 is padding.
        scale: [2] f32 that an E4M3 cache divides keys and values by.
    """
    write = kv_write_kernel if kernels_run(keys) and _kernel_takes(keys, values, cache) else kv_write_ref
    write(keys, values, cache, kv_slot, scale)


def kv_write_ref(keys: Tensor, values: Tensor, cache: Tensor, kv_slot: Tensor, scale: Tensor) -> None:
    size, both = cache.shape[2], torch.stack([keys, values], dim=1)
    if cache.dtype == E4M3:
        codes = (both.float() / scale[:, None, None]).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)
        both, cache = codes.view(torch.uint8), cache.view(torch.uint8)  # bytes have an indexed write everywhere
    kept = (kv_slot > 0)[:, None, None, None]
    cache[kv_slot // size, :, kv_slot % size] = both.where(kept, cache[0, :, 0])


def _kernel_takes(keys: Tensor, values: Tensor, cache: Tensor) -> bool:
    """Rows that stand one piece each, as the projection leaves them."""
    _, heads, width = keys.shape
    return (
        keys.dtype in (torch.bfloat16, torch.float16)
        and cache.dtype in (keys.dtype, E4M3)
        and keys.stride() == values.stride()
        and keys.stride()[1:] == (width, 1)
        and heads * width & (heads * width - 1) == 0
        and cache.is_contiguous()
    )


def kv_write_kernel(keys: Tensor, values: Tensor, cache: Tensor, kv_slot: Tensor, scale: Tensor) -> None:
    tokens, heads, width = keys.shape
    if tokens:
        _write[(triton.cdiv(tokens, ROWS), 2)](
            keys, values, cache, kv_slot, scale, tokens, keys.stride(0),
            BLOCK=cache.shape[2], WIDE=heads * width, E4M3=cache.dtype == E4M3, ROWS=ROWS, num_warps=4,
        )  # fmt: skip


@jit(do_not_specialize=["tokens"])
def _write(
    keys,
    values,
    cache,
    kv_slot,
    scale,
    tokens,
    stride,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    E4M3: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Program: `ROWS` rows of the keys (0) or of the values (1)."""
    which = tl.program_id(1)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    across = tl.arange(0, WIDE)
    slot = tl.load(kv_slot + rows, mask=rows < tokens, other=0)
    kept = (slot > 0)[:, None]
    source = values if which else keys
    row = tl.load(source + rows[:, None] * stride + across, mask=kept, other=0.0)
    if E4M3:
        # Rounded as the reference rounds: a plain division is off by two units in the last place.
        exact = tl.div_rn(row.to(tl.float32), tl.full([ROWS, WIDE], 1.0, tl.float32) * tl.load(scale + which))
        # NaN stays NaN; what is beyond 448 saturates.
        row = tl.clamp(exact, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
    place = (slot // BLOCK * 2 + which) * BLOCK + slot % BLOCK
    tl.store(cache + place[:, None] * WIDE + across, row.to(cache.dtype.element_ty), mask=kept)
