"""Sound into log-mel frames, and how many tokens they become.

A recording is cut into windows of 30 s that are normalised and encoded each alone, as the published servers do; the
tokens of all windows follow one another. 100 frames a second, one token for 8 frames.

Source: spec 4.1, 4.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

RATE_HZ = 16_000
HOP = 160
WINDOW = 400
FFT = 512
PREEMPHASIS = 0.97
FLOOR = 2.0**-24  # added before the logarithm
EPSILON = 1e-5  # added to the deviation
CLIP_SAMPLES = 30 * RATE_HZ
LEAST_SAMPLES = RATE_HZ // 10  # ten frames: the deviation needs more than one
STRIDES = 3  # convolutions of stride 2

# The scale of Slaney's Auditory Toolbox: linear to 1 kHz, then 27 mels for each factor of 6.4.
LINEAR_HZ = 200.0 / 3
BREAK_HZ = 1000.0
LOG_STEP = math.log(6.4) / 27


@dataclass(frozen=True, slots=True)
class Mel:
    """Frames of several clips, padded to the longest.

    Attributes:
        frames: [clips, frames, bins] float32, normalised; 0 beyond a clip's valid frames.
        valid: valid frames of each clip.
        counts: [clips] int64, the same where the frames are.
    """

    frames: Tensor
    valid: tuple[int, ...]
    counts: Tensor

    def pinned(self) -> "Mel":
        """In memory from which a copy to the card makes nobody wait."""
        return Mel(self.frames.pin_memory(), self.valid, self.counts.pin_memory())

    def to(self, device: torch.device | str) -> "Mel":
        """Where an encoder is; from pinned memory nothing waits."""
        return Mel(self.frames.to(device, non_blocking=True), self.valid, self.counts.to(device, non_blocking=True))


def clips(waveform: Tensor) -> list[Tensor]:
    """[L] samples at 16 kHz into windows of 30 s; the last, or a short one, is filled up to 0.1 s with silence."""
    if waveform.ndim != 1:
        raise ValueError(f"expected [L] samples of one channel, got {list(waveform.shape)}")
    parts = list(waveform.split(CLIP_SAMPLES)) or [waveform]
    short = LEAST_SAMPLES - len(parts[-1])
    if short > 0:
        parts[-1] = torch.cat([parts[-1], waveform.new_zeros(short)])
    return parts


def clip_tokens(samples: int) -> int:
    """Tokens of one clip."""
    return max(1, subsampled(samples // HOP))


def subsampled(frames: int) -> int:
    """Frames that are left after the strided convolutions."""
    for _ in range(STRIDES):
        frames = (frames - 1) // 2 + 1
    return frames


def log_mel(waveforms: Sequence[Tensor], bins: int = 128) -> Mel:
    """Log-mel frames of clips, each normalised over its own valid frames.

    Args:
        waveforms: [L] float samples in -1..1 at 16 kHz each, at least 0.1 s.

    Returns:
        1 + longest L // 160 frames; L // 160 of a clip are valid.
    """
    lengths = [len(one) for one in waveforms]
    if min(lengths) < LEAST_SAMPLES:
        raise ValueError(f"expected clips of at least {LEAST_SAMPLES} samples, got one of {min(lengths)}")
    padded = torch.nn.utils.rnn.pad_sequence([_emphasised(one.float()) for one in waveforms], batch_first=True)
    valid = tuple(length // HOP for length in lengths)
    counts = torch.tensor(valid, device=padded.device)
    return Mel(_normalised(_log_power(padded, bins), counts), valid, counts)


def _emphasised(waveform: Tensor) -> Tensor:
    return torch.cat([waveform[:1], waveform[1:] - PREEMPHASIS * waveform[:-1]])


def _log_power(waveforms: Tensor, bins: int) -> Tensor:
    """[N, L] into [N, 1 + L // 160, bins]."""
    window = torch.hann_window(WINDOW, periodic=False, device=waveforms.device)
    spectrum = torch.stft(
        waveforms, FFT, HOP, WINDOW, window=window, center=True, pad_mode="constant", return_complex=True
    )
    power = torch.view_as_real(spectrum).pow(2).sum(-1)  # [N, 257, frames]
    return torch.log(mel_filters(bins).to(power.device) @ power + FLOOR).transpose(1, 2)


def _normalised(frames: Tensor, counts: Tensor) -> Tensor:
    counts = counts[:, None, None]
    mask = torch.arange(frames.shape[1], device=frames.device)[None, :, None] < counts
    mean = frames.where(mask, 0.0).sum(1, keepdim=True) / counts
    centred = (frames - mean).where(mask, 0.0)
    deviation = (centred.pow(2).sum(1, keepdim=True) / (counts - 1)).sqrt()
    return centred / (deviation + EPSILON)


@cache
def mel_filters(bins: int = 128) -> Tensor:
    """[bins, 257] float32: triangles on Slaney's mel scale from 0 to 8 kHz, each of area 1 (Slaney's norm)."""
    top = _mels(RATE_HZ / 2)
    edges = torch.tensor([_hertz(top * at / (bins + 1)) for at in range(bins + 2)], dtype=torch.float64)
    hertz = torch.linspace(0, RATE_HZ / 2, FFT // 2 + 1, dtype=torch.float64)
    slopes = edges[:, None] - hertz[None, :]  # [bins + 2, 257]
    widths = edges.diff()[:, None]
    rising, falling = -slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]
    triangles = torch.minimum(rising, falling).clamp_min(0.0)
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).float()


def _mels(hertz: float) -> float:
    if hertz < BREAK_HZ:
        return hertz / LINEAR_HZ
    return BREAK_HZ / LINEAR_HZ + math.log(hertz / BREAK_HZ) / LOG_STEP


def _hertz(mels: float) -> float:
    if mels < BREAK_HZ / LINEAR_HZ:
        return mels * LINEAR_HZ
    return BREAK_HZ * math.exp((mels - BREAK_HZ / LINEAR_HZ) * LOG_STEP)
