"""Philox4x32-10: random numbers as a function of a counter and a key, with no state to keep.

A token is drawn with (seed, position) alone, so it does not depend on what else is in the batch, nor on the device.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.kernels.jit import jit, tl

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF


def philox4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Four random words of 32 bits.

    Args:
        counter: four tensors of int64 in 0..2^32 - 1, of one shape.
        key: two of them.

    Returns:
        Four tensors of int64 in 0..2^32 - 1.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _product(MULTIPLIERS[0], c0)
        high1, low1 = _product(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def uniform(seed: Tensor, position: Tensor, turn: Tensor | int = 0) -> Tensor:
    """A number in [0, 1) with 53 random bits for each row.

    Args:
        seed, position: [S] int64; the bits of a negative one count as they are.
        turn: [*, S] int64 or one number in 0..2^32 - 1, where a row needs several.

    Returns:
        [*, S] float64.
    """
    zero = torch.zeros_like(position)
    counter = (position & WORD, (position >> 32) & WORD, zero + turn, zero)
    first, second, *_ = philox4x32(counter, (seed & WORD, (seed >> 32) & WORD))
    return ((first >> 5) * (1 << 26) + (second >> 6)).double() * 2.0**-53


@jit
def uniform_of(seed, position, turn):
    """`uniform` inside a kernel."""
    low, high = position.to(tl.uint32), (position >> 32).to(tl.uint32)
    words = tl.philox(seed, low, high, turn.to(tl.uint32), low * 0)
    return ((words[0] >> 5).to(tl.float64) * (1 << 26) + (words[1] >> 6).to(tl.float64)) * 2.0**-53


def _product(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a 64-bit product; by halves of `word`, so that no int64 overflows."""
    low_part = factor * (word & 0xFFFF)
    high_part = factor * (word >> 16) + (low_part >> 16)
    return high_part >> 16, ((high_part & 0xFFFF) << 16) | (low_part & 0xFFFF)
