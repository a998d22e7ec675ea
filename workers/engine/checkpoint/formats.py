"""The formats of a weight: what its tensors mean, and plain torch that turns them back into numbers.

    Dense    W                                   bf16 or fp32
    Fp8      W = float(q) * scale                E4M3 ("fn": largest 448, no infinity)
    Nvfp4    W = e2m1(code) * float(block scale) * scale_2      4 bits, a block scale (E4M3) for 16 columns

A weight of one linear layer is [out, in]; one of many experts is stacked, [E, out, in]. What turns them back into
numbers works on both and on any device, and waits for nothing; what quantises to E2M1 sends a table, so it may wait.

Source: spec 8.2, 8.3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.checkpoint.swizzle import unswizzle
from workers.engine.kernels.experts_nvfp4 import halves
from workers.engine.quant import GROUP_SIZE

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
E2M1_MAX = 6.0
# Halfway between neighbours of 0, 0.5, 1, 1.5, 2, 3, 4, 6; a value on a border goes to the even code.
E2M1_BORDERS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
LEAST_BLOCK_SCALE = 2.0**-9  # the smallest number above zero in E4M3


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """
    Attributes:
        weight: [*E, out, in] bf16 or fp32.
        bias: [out] of the same dtype.
    """

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Fp8:
    """
    Attributes:
        weight: [*E, out, in] E4M3.
        scale: [*E, 1] or, where several layers were merged, [*E, out]; f32.
        input_scale: [] or [*E] f32, what activations are divided by before they are rounded to E4M3; None: they stay.
        out_dtype: of the product.
    """

    weight: Tensor
    scale: Tensor
    input_scale: Tensor | None
    out_dtype: torch.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Nvfp4:
    """
    Attributes:
        weight: [*E, out, in / 2] u8, two codes a byte, the even column in the low nibble.
        block_scale: [*E, out, in / 16] E4M3, row-major as on disk; or, if `swizzled`, as `swizzle.py` lays it out.
        scale_2: [*E] f32.
        input_scale: [] or [*E] f32, for activations in NVFP4; not used where the weight alone is quantised.
        out_dtype: of the product.
    """

    weight: Tensor
    block_scale: Tensor
    scale_2: Tensor
    input_scale: Tensor | None
    out_dtype: torch.dtype
    swizzled: bool = False


Weight = Dense | Fp8 | Nvfp4


def dequantise(weight: Weight, dtype: torch.dtype | None = None) -> Tensor:
    """[*E, out, in] of `dtype`, or of the dtype in which the weight answers."""
    match weight:
        case Dense():
            return weight.weight if dtype is None else weight.weight.to(dtype)
        case Fp8():
            return dequantise_fp8(weight.weight, weight.scale).to(dtype or weight.out_dtype)
        case Nvfp4():
            scale = weight.block_scale
            if weight.swizzled:
                scale = unswizzle(scale, weight.weight.shape[-2], 2 * weight.weight.shape[-1] // GROUP_SIZE)
            return dequantise_nvfp4(weight.weight, scale, weight.scale_2).to(dtype or weight.out_dtype)


def quantise_fp8(x: Tensor, scale: Tensor) -> Tensor:
    """E4M3 of x / scale. Beyond the largest number it saturates, which not every torch's cast does by itself."""
    return (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)


def dequantise_fp8(codes: Tensor, scale: Tensor) -> Tensor:
    """[*E, out, in] f32 from codes of that shape and scales [*E, 1] or [*E, out]."""
    return codes.float() * scale.unsqueeze(-1)


def fp8_scale(weight: Tensor) -> Tensor:
    """[] f32: the scale that maps the largest magnitude to 448; 1 for a weight of zeros."""
    largest = weight.abs().amax().float()
    return torch.where(largest > 0, largest / E4M3_MAX, 1.0)


def e2m1_codes(x: Tensor) -> Tensor:
    """4-bit codes as u8 of the same shape; nearest, ties to the even code, saturating at 6."""
    borders = torch.tensor(E2M1_BORDERS, device=x.device)
    magnitude = x.abs().float()
    code = torch.bucketize(magnitude, borders)
    for border in E2M1_BORDERS[1::2]:
        code += magnitude == border
    return (code + 8 * torch.signbit(x)).to(torch.uint8)


def pack_e2m1(codes: Tensor) -> Tensor:
    """[..., in / 2] u8 from codes [..., in]."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack_e2m1(packed: Tensor) -> Tensor:
    """[..., in] f32 values from bytes [..., in / 2]."""
    return 0.5 * halves(packed)


def quantise_nvfp4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes [out, in / 2], block scales [out, in / 16] E4M3 and scale_2 [] f32 of one layer, as ModelOpt makes them."""
    out, width = weight.shape
    scale_2 = weight.abs().amax().float() / (E2M1_MAX * E4M3_MAX)
    scale_2 = torch.where(scale_2 > 0, scale_2, 1.0)
    blocks = weight.float().view(out, width // GROUP_SIZE, GROUP_SIZE)
    largest = blocks.abs().amax(-1)
    exact = (largest / E2M1_MAX / scale_2).clamp(LEAST_BLOCK_SCALE, E4M3_MAX)
    block_scale = torch.where(largest > 0, exact, 1.0).to(E4M3)
    codes = e2m1_codes(blocks / (block_scale.float() * scale_2).unsqueeze(-1))
    return pack_e2m1(codes.view(out, width)), block_scale, scale_2


def dequantise_nvfp4(packed: Tensor, block_scale: Tensor, scale_2: Tensor) -> Tensor:
    """[*E, out, in] f32 from bytes [*E, out, in / 2], block scales [*E, out, in / 16] and scale_2 [*E]."""
    scale = block_scale.float() * scale_2[..., None, None]
    return unpack_e2m1(packed) * scale.repeat_interleave(GROUP_SIZE, dim=-1)
