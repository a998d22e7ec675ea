"""The least time a step can take on a card: bytes that must move, and arithmetic that must be done.

Every weight that a step uses is read once, every expert that is chosen too (uniform routing chooses E (1 - (1 - k/E)^T)
of them), a decoding sequence's states are read each step and written once a window, keys and values of the whole
context are read. Activations are left out: the floor is a floor.
"""

from dataclasses import dataclass

from workers.engine.config import Mixer, TextConfig
from workers.engine.plan import Plan

COPY_BYTES_S = 3.03e12  # measured on an H100 80GB HBM3; bench/README
FLOP_S = {"BF16": 790e12, "FP8": 1505e12, "NVFP4": 790e12}
WEIGHT_BYTES = {"BF16": 2.0, "FP8": 1.0, "NVFP4": 0.5625}


@dataclass(frozen=True, slots=True)
class Floor:
    """Of one step or of many, one after another."""

    bytes: float = 0.0
    flop: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Floor") -> "Floor":
        return Floor(self.bytes + other.bytes, self.flop + other.flop, self.seconds + other.seconds)


class Roof:
    """
    Args:
        algo: BF16, FP8 or NVFP4: of the experts; other layers of an NVFP4 checkpoint are FP8.
        window: tokens for which a state is written once.
        kv_bytes: of one number in the cache.
    """

    def __init__(self, config: TextConfig, algo: str, window: int, kv_bytes: int) -> None:
        self._config, self._algo, self._window, self._kv_bytes = config, algo, window, kv_bytes
        d, f = config.hidden_size, config.moe_intermediate_size
        self._mamba, self._attention, self._moe = (
            len(config.layers_of(kind)) for kind in (Mixer.MAMBA, Mixer.ATTENTION, Mixer.MOE)
        )
        width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        in_proj = config.d_inner + config.conv_dim + config.mamba_num_heads
        self._expert = 2 * d * f
        self._shared = self._moe * 2 * d * config.moe_shared_expert_intermediate_size
        self._mixers = self._mamba * d * (in_proj + config.d_inner) + self._attention * d * (2 * width + 2 * kv_width)
        self._head = d * config.vocab_size
        state = config.mamba_num_heads * config.mamba_head_dim * config.ssm_state_size
        self._state = self._mamba * 4 * state
        self._scan_flop = self._mamba * 4 * state  # a token's share of the recurrence
        self._pair_flop = self._attention * 4 * width  # one query and one key

    def step(self, plan: Plan) -> Floor:
        tokens, decodes = plan.tokens, plan.decodes
        prefills = len(plan.rows) - decodes
        samples = sum(row.samples for row in plan.rows)
        weight = WEIGHT_BYTES[self._algo]
        dense = 1.0 if self._algo != "BF16" else 2.0
        k, count = self._config.num_experts_per_tok, self._config.n_routed_experts
        touched = count * (1 - (1 - k / count) ** tokens)
        # The router and, in a quantised checkpoint, the head stay in BF16.
        weights = dense * (self._shared + self._mixers) + weight * self._moe * touched * self._expert
        weights += 2 * self._head if samples else 0
        states = self._state * (decodes * (1 + 1 / self._window) + 2 * prefills)
        kv = self._attention * 2 * self._config.num_key_value_heads * self._config.head_dim * self._kv_bytes
        moved = weights + states + kv * sum(row.end for row in plan.rows)
        flop = 2.0 * tokens * (self._shared + self._mixers + k * self._moe * self._expert)
        flop += 2.0 * samples * self._head + tokens * self._scan_flop
        flop += self._pair_flop * sum(row.count * (row.start + row.end) / 2 for row in plan.rows)
        return Floor(moved, flop, max(moved / COPY_BYTES_S, flop / FLOP_S[self._algo]))
