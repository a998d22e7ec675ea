"""Keys and values of a step into the pages of the cache.

Source: spec 2.4, 8.1, 8.3 (an E4M3 cache has scale 1 unless the checkpoint brings one).
"""

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0


def kv_write(keys: Tensor, values: Tensor, cache: Tensor, kv_slot: Tensor, scale: Tensor) -> None:
    """Writes `cache` in place; rows of slot 0 are not written.

    Args:
        keys, values: [T, Hk, W].
        cache: [blocks, 2, block, Hk, W] of their dtype, or E4M3.
        kv_slot: [T] int64, block * size of a block + place in it; 0 is padding.
        scale: [2] f32 that an E4M3 cache divides keys and values by.
    """
    kv_write_ref(keys, values, cache, kv_slot, scale)


def kv_write_ref(keys: Tensor, values: Tensor, cache: Tensor, kv_slot: Tensor, scale: Tensor) -> None:
    size, both = cache.shape[2], torch.stack([keys, values], dim=1)
    if cache.dtype == E4M3:
        codes = (both.float() / scale[:, None, None]).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)
        both, cache = codes.view(torch.uint8), cache.view(torch.uint8)  # bytes have an indexed write everywhere
    kept = (kv_slot > 0)[:, None, None, None]
    cache[kv_slot // size, :, kv_slot % size] = both.where(kept, cache[0, :, 0])
