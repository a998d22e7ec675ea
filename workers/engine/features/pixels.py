"""Pictures into patches: resize, normalise, cut. Runs where its tensor is.

A patch is a row of numbers: (channel, row, column) for an image, (frame, channel, row, column) for the two frames of a
tubelet. Patches come row by row.

Source: spec 3.4, 3.5.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

TUBELET = 2  # consecutive sampled frames that share one pass of the tower


def resize(pictures: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Bicubic with antialias; overshoot is kept.

    Args:
        pictures: [N, 3, height, width], 0..255.
        size_px: new height and width.

    Returns:
        [N, 3, *size_px] float32, about 0..255.
    """
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise ValueError(f"expected [N, 3, height, width], got {list(pictures.shape)}")
    pictures = pictures.to(torch.float32)
    if tuple(pictures.shape[-2:]) == tuple(size_px):
        return pictures
    return F.interpolate(pictures, size=size_px, mode="bicubic", align_corners=False, antialias=True)


def normalise(pictures: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """0..255 into what the tower was trained on: (x / 255 - mean) / std.

    Args:
        mean, std: [1, 3, 1, 1] where the pictures are; kept there, for sending them makes the host wait.
    """
    return (pictures / 255.0 - mean) / std


def patches(pictures: Tensor, patch_px: int) -> Tensor:
    """[N, C, rows * p, columns * p] into [N, rows * columns, C * p * p]."""
    count, channels, height, width = pictures.shape
    rows, columns = height // patch_px, width // patch_px
    if (rows * patch_px, columns * patch_px) != (height, width):
        raise ValueError(f"expected sides in multiples of {patch_px} pixels, got {height} x {width}")
    cut = pictures.view(count, channels, rows, patch_px, columns, patch_px)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, channels * patch_px**2)


def tubelets(frames: Tensor, size: int = TUBELET) -> Tensor:
    """[F, C, H, W] into [ceil(F / size), size * C, H, W]; the last frame is repeated to fill the last tubelet."""
    if not len(frames):
        raise ValueError("expected at least one frame, got none")
    short = -len(frames) % size
    if short:
        frames = torch.cat([frames, frames[-1:].expand(short, -1, -1, -1)])
    return frames.reshape(len(frames) // size, size * frames.shape[1], *frames.shape[2:])
