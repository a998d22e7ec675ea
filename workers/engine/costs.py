"""What an encoder pass costs, in FLOP: the unit of the second budget of a step. Whole-number arithmetic on sizes.

A multiplication and an addition count two. Norms and activations are left out; the published sizes come within 5 % of
the table in spec 10.4.
"""

from workers.engine.config import OmniConfig, ProjectorConfig, SoundConfig, VisionConfig
from workers.engine.features.grids import Grid
from workers.engine.features.mel import subsampled


def image_flop(config: OmniConfig, grid: Grid) -> int:
    """An image through tower and projector."""
    return _tower(config.vision, grid, config.vision.patch_dim) + grid.tokens * _projector(config.image_projector)


def tubelet_flop(config: OmniConfig, grid: Grid) -> int:
    """A pair of frames of a video."""
    return _tower(config.vision, grid, config.vision.video_patch_dim) + grid.tokens * _projector(config.image_projector)


def clip_flop(config: OmniConfig, frames: int) -> int:
    """A window of sound of so many mel frames."""
    tokens = subsampled(frames)
    blocks = config.sound.num_hidden_layers * _conformer(config.sound, tokens)
    return _strides(config.sound, frames) + blocks + tokens * _projector(config.sound_projector)


def _tower(vision: VisionConfig, grid: Grid, patch_dim: int) -> int:
    width, tokens = vision.hidden_size, grid.patches + vision.num_prefix_tokens
    linears = 4 * width * width + 2 * width * vision.intermediate_size
    block = 2 * tokens * linears + 4 * tokens * tokens * width
    return 2 * grid.patches * patch_dim * width + vision.num_hidden_layers * block


def _conformer(sound: SoundConfig, tokens: int) -> int:
    width = sound.hidden_size
    feed_forward = 2 * 2 * width * sound.intermediate_size
    attention, convolution = 4 * width * width, 3 * width * width + sound.conv_kernel_size * width
    positions = 2 * (2 * tokens - 1) * width * width
    # Scores by content and, twice as wide, by position; then the values.
    scores = 2 * tokens * tokens * width * 4
    return 2 * tokens * (feed_forward + attention + convolution) + positions + scores


def _strides(sound: SoundConfig, frames: int) -> int:
    channels, total = sound.subsampling_conv_channels, 0
    for nth in range(3):
        frames = (frames - 1) // 2 + 1
        places = frames * (sound.num_mel_bins >> (nth + 1))
        total += 2 * places * channels * (9 + (channels if nth else 0))
    return total + 2 * frames * channels * sound.subsampled_bins * sound.hidden_size


def _projector(projector: ProjectorConfig) -> int:
    return 2 * projector.hidden_size * (projector.in_size + projector.out_size)
