"""Canonical media of the pipeline into what the engine decodes nothing of: pixels and samples as tensors."""

import io

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from workers.engine.media import Decoded, Image, Sound, Video
from workers.inputs import Canonical, CanonicalAudio, CanonicalClip, CanonicalPage


def decoded(canonical: Canonical) -> Decoded:
    """A span, a clip or a page. Takes a processor for 5 ms a picture.

    Raises:
        ValueError: a clip without frames, or a page without an image.
    """
    match canonical:
        case CanonicalAudio():
            return Sound(torch.from_numpy(canonical.waveform))
        case CanonicalPage(jpeg=jpeg) if jpeg:
            return Image(_pixels(jpeg))
        case CanonicalClip(frames=frames) if frames:
            return Video(torch.stack([_pixels(frame.jpeg) for frame in frames]), [frame.time_s for frame in frames])
    raise ValueError(f"expected a {type(canonical).__name__} with a picture, got one without")


def _pixels(jpeg: bytes) -> Tensor:
    """[3, height, width] uint8."""
    with Pillow.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
