"""One call for every linear layer: `linear(x, weight)`; the weight knows its format.

| weight | activations | arithmetic |
| --- | --- | --- |
| Dense | as they come | x W^T + bias |
| Fp8 | E4M3 by the layer's static `input_scale`, here or already by the norm in front | (x_q q^T) input_scale scale |
| Fp8 without `input_scale` | as they come | x W^T, W dequantised |
| Nvfp4 | as they come | x W^T, W dequantised: weight-only, as on a card without FP4 tensor cores |

Nothing here waits for the device: scales stay tensors.

Source: spec 8.2, 8.3.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.engine.checkpoint.formats import E4M3, Dense, Fp8, Nvfp4, Weight, dequantise
from workers.engine.kernels.quantise import quantise

__all__ = ["Dense", "Fp8", "Nvfp4", "Weight", "linear"]

# What an FP8 matrix product on the card asks of both dimensions of a weight.
FP8_MULTIPLE = 16
MOST_ROWS = 1 << 17  # of a step


def linear(x: Tensor, weight: Weight) -> Tensor:
    """The product x W^T, in the arithmetic that the weight asks for.

    Args:
        x: [..., in], bf16 or fp32; for Fp8 with an `input_scale` also E4M3, already divided by it.
        weight: [out, in] in any format; not stacked.

    Returns:
        [..., out], of the weight's dtype if it is Dense, else of its `out_dtype`.
    """
    match weight:
        case Dense():
            return F.linear(x, weight.weight, weight.bias)
        case Fp8(input_scale=scale) if scale is not None:
            codes = x if x.dtype == E4M3 else quantise(x, scale)
            return (_fp8_scaled_mm if _fits_scaled_mm(codes, weight) else linear_fp8_ref)(codes, weight, scale)
        case Fp8() | Nvfp4():
            return F.linear(x, dequantise(weight, x.dtype)).to(weight.out_dtype)


def linear_fp8_ref(codes: Tensor, weight: Fp8, input_scale: Tensor) -> Tensor:
    """In fp32: [..., out] from E4M3 activations [..., in]."""
    product = F.linear(codes.float(), weight.weight.float())
    return (product * (input_scale * weight.scale)).to(weight.out_dtype)


def _fits_scaled_mm(codes: Tensor, weight: Fp8) -> bool:
    aligned = all(size % FP8_MULTIPLE == 0 for size in weight.weight.shape)
    return codes.is_cuda and aligned and codes.numel() > 0 and weight.out_dtype == torch.bfloat16


def _fp8_scaled_mm(codes: Tensor, weight: Fp8, input_scale: Tensor) -> Tensor:
    rows = codes.reshape(-1, codes.shape[-1])
    if weight.scale.numel() == 1:
        scale_a, scale_b = input_scale.reshape(1, 1), weight.scale.reshape(1, 1)
    else:
        # A scale for each output row asks for one for each row of activations as well.
        scale_a, scale_b = _ones(codes.device)[: len(rows)], (input_scale * weight.scale).reshape(1, -1)
    out = torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
        rows, weight.weight.t(), scale_a, scale_b, out_dtype=weight.out_dtype
    )
    return out.view(*codes.shape[:-1], -1)


@lru_cache
def _ones(device: torch.device) -> Tensor:
    """[rows, 1] f32, made once, for a fill is a launch, and kept, for graphs read it."""
    return torch.ones(MOST_ROWS, 1, device=device)
