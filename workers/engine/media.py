"""Decoded media into what a request carries: parts for the encoders, each small enough for a step, and their rows.

Pixels stay bytes here; they are resized and normalised beside the encoder, on its device. Sound becomes mel frames.

    Image ──> one part          Video ──> some tubelets a part, EVS behind the last          Sound ──> some clips a part
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from omni_jobs.errors import UsageError
from workers.engine.chat import Expansion, Prompt
from workers.engine.config import OmniConfig
from workers.engine.costs import clip_flop, image_flop, tubelet_flop
from workers.engine.embeddings import Frames, Picture
from workers.engine.features import mel
from workers.engine.features.evs import kept_tokens
from workers.engine.features.frames import labels
from workers.engine.features.grids import Grid, frame_grid, square_grid
from workers.engine.request import Media, MediaKind, Part, Pruning

PART_FLOP = 6 * 10**12  # of a part made of several tubelets or clips: a third of a step


@dataclass(frozen=True, slots=True)
class Image:
    """`pixels`: [3, height, width] uint8."""

    pixels: Tensor


@dataclass(frozen=True, slots=True)
class Sound:
    """`samples`: [L] float32 in -1..1 at 16 kHz."""

    samples: Tensor


@dataclass(frozen=True, slots=True)
class Video:
    """Frames that were sampled already.

    Attributes:
        frames: [F, 3, height, width] uint8.
        seconds: time of each, as the prompt names it; None names none.
        sound: what is heard meanwhile, where the model is to hear it.
    """

    frames: Tensor
    seconds: Sequence[float] | None = None
    sound: Sound | None = None


Decoded = Image | Video | Sound


@dataclass(frozen=True, slots=True)
class Prepared:
    """A medium that only waits for its place in a prompt.

    Attributes:
        rate: share of a video's rows that is dropped.
    """

    expansion: Expansion
    parts: dict[MediaKind, tuple[Part, ...]] = field(default_factory=dict)
    rate: float = 0.0


def prepare_image(config: OmniConfig, image: Image, grid: Grid) -> Prepared:
    part = Part(Picture(_pixels(image.pixels, 3), grid), grid.tokens, image_flop(config, grid))
    return Prepared(Expansion((grid.tokens,)), {MediaKind.IMAGE: (part,)})


def prepare_sound(config: OmniConfig, sound: Sound) -> Prepared:
    parts = _clips(config, sound)
    return Prepared(Expansion((sum(part.rows for part in parts),)), {MediaKind.SOUND: parts})


def prepare_video(config: OmniConfig, video: Video, rate: float) -> Prepared:
    """
    Args:
        rate: share of the rows to drop; 0 keeps all.
    """
    vision, frames = config.vision, _pixels(video.frames, 4)
    grid = video_grid(config, video)
    parts = tuple(_tubelets(config, frames, grid))
    tubelets = -(-len(frames) // vision.video_temporal_patch_size)
    counts = (grid.tokens,) * tubelets
    if rate:
        # As if all that stays were in the first; the rest is known when the tower has run.
        counts = (kept_tokens(tubelets, grid.tokens, rate), *(0,) * (tubelets - 1))
    heard = _clips(config, video.sound) if video.sound else ()
    return Prepared(
        Expansion(
            counts,
            tuple(labels(len(frames), video.seconds, vision.video_temporal_patch_size)),
            sum(part.rows for part in heard),
        ),
        {MediaKind.VIDEO: parts, MediaKind.SOUND: heard},
        rate,
    )


def video_grid(config: OmniConfig, video: Video) -> Grid:
    height_px, width_px = video.frames.shape[-2:]
    target = config.vision.video_target_num_patches
    if config.vision.video_maintain_aspect_ratio:
        return frame_grid(height_px, width_px, target=target)
    return square_grid(target=target)


def media_of(
    config: OmniConfig, prompt: Prompt, prepared: Sequence[Prepared], end_image: int, *, pin: bool = False
) -> tuple[Media, ...]:
    """The media of a prompt, in the order of their placeholders.

    Args:
        end_image: id of `</img>`.
        pin: features are to lie in pinned memory: from any other the engine's thread would wait for the card.

    Raises:
        UsageError: a medium of another kind than its message says.
    """
    found = dict.fromkeys((slot.index, slot.kind) for slot in prompt.slots)
    media = (_medium(config, prompt, index, kind, prepared[index], end_image) for index, kind in found)
    return tuple(_pinned(medium) if pin else medium for medium in media)


def _medium(
    config: OmniConfig, prompt: Prompt, index: int, kind: MediaKind, prepared: Prepared, end_image: int
) -> Media:
    if kind not in prepared.parts:
        raise UsageError(f"medium {index}: expected {kind}, got {next(iter(prepared.parts))}")
    tokens = sum(slot.length for slot in prompt.slots if (slot.index, slot.kind) == (index, kind))
    placeholder = config.sound_context_token_id if kind is MediaKind.SOUND else config.img_context_token_id
    pruning = None
    if kind is MediaKind.VIDEO and prepared.rate:
        pruning = Pruning(prepared.rate, *prompt.tubelet_heads(index), (end_image,))
    return Media(kind, placeholder, prepared.parts[kind], tokens, pruning)


def _pinned(medium: Media) -> Media:
    return replace(medium, parts=tuple(replace(part, features=part.features.pinned()) for part in medium.parts))


def _tubelets(config: OmniConfig, frames: Tensor, grid: Grid) -> Iterator[Part]:
    flop, size = tubelet_flop(config, grid), config.vision.video_temporal_patch_size
    for some in frames.split(size * max(1, PART_FLOP // flop)):
        count = -(-len(some) // size)
        yield Part(Frames(some, grid), count * grid.tokens, count * flop)


def _clips(config: OmniConfig, sound: Sound) -> tuple[Part, ...]:
    if sound.samples.ndim != 1 or not sound.samples.is_floating_point():
        raise UsageError(f"expected [L] float samples, got {list(sound.samples.shape)} {sound.samples.dtype}")
    clips = mel.clips(sound.samples)
    most = max(1, PART_FLOP // clip_flop(config, mel.CLIP_SAMPLES // mel.HOP))
    parts = [clips[at : at + most] for at in range(0, len(clips), most)]
    return tuple(
        Part(
            mel.log_mel(some, config.sound.num_mel_bins),
            sum(mel.clip_tokens(len(clip)) for clip in some),
            sum(clip_flop(config, len(clip) // mel.HOP) for clip in some),
        )
        for some in parts
    )


def _pixels(pixels: Tensor, dimensions: int) -> Tensor:
    if pixels.ndim != dimensions or pixels.shape[-3] != 3 or pixels.dtype != torch.uint8 or not pixels.numel():
        shape = "[3, height, width]" if dimensions == 3 else "[frames, 3, height, width]"
        raise UsageError(f"expected {shape} uint8, got {list(pixels.shape)} {pixels.dtype}")
    return pixels
