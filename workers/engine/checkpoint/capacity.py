"""What fits on a card beside the weights: whole sequences, each with its state, its window and its KV positions.

    sequences = (memory - workspace - weights) / (state + window + convolution + KV bytes * positions)

The state is fp32. Positions are prompt and longest answer, for that is what admission reserves.

Source: DESIGN section 6, whose counts for an 80 GB card these constants reproduce; spec 10.2 for the bytes.
"""

from dataclasses import dataclass

from workers.engine.config import Mixer, OmniConfig

# Activations, graphs, the encoders' buffers and the driver's own.
WORKSPACE_BYTES = 4_600_000_000
# Of five minutes of sound, of a page at 150 dpi, and of a clip of 256 frames of which half of the tokens stay.
POSITIONS = {"audio": 4650, "page": 2490, "video": 20_690}
WINDOW_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Capacity:
    """
    Attributes:
        free_bytes: what is left for sequences; negative where the weights alone are too large.
        sequences: how many of a kind run at once.
    """

    free_bytes: int
    sequences: dict[str, int]

    @property
    def fits(self) -> bool:
        """Whether at least one sequence of each kind does."""
        return min(self.sequences.values()) > 0


def capacity(config: OmniConfig, weights_bytes: int, memory_bytes: int, window_tokens: int = WINDOW_TOKENS) -> Capacity:
    """Counts the sequences of each kind that fit at once, if all are of that kind."""
    free = memory_bytes - WORKSPACE_BYTES - weights_bytes
    fixed, each = state_bytes(config, window_tokens), kv_bytes(config)
    counts = {kind: max(0, free // (fixed + each * positions)) for kind, positions in POSITIONS.items()}
    return Capacity(free, counts)


def state_bytes(config: OmniConfig, window_tokens: int = WINDOW_TOKENS) -> int:
    """Of one sequence whatever its length: the state, the window's rows (x, B, dt), the convolution's last inputs."""
    text = config.text
    state = 4 * text.mamba_num_heads * text.mamba_head_dim * text.ssm_state_size
    row = 2 * (text.d_inner + text.n_groups * text.ssm_state_size) + 4 * text.mamba_num_heads
    ring = 2 * text.conv_kernel * text.conv_dim
    return len(text.layers_of(Mixer.MAMBA)) * (state + window_tokens * row + ring)


def kv_bytes(config: OmniConfig) -> int:
    """Of one position."""
    item_bytes = 1 if config.quant.kv_fp8 else {"bfloat16": 2, "float32": 4}[config.torch_dtype]
    return len(config.text.layers_of(Mixer.ATTENTION)) * 2 * config.text.kv_dim * item_bytes
