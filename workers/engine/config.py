"""What `config.json` says about the model: sizes, layer pattern, token ids, quantisation. Names are those of the file.

    OmniConfig
     ├── text    TextConfig     llm_config: the hybrid of Mamba-2, mixture of experts and attention
     ├── vision  VisionConfig   vision_config: C-RADIO
     ├── sound   SoundConfig    sound_config: Parakeet
     ├── image_projector, sound_projector   ProjectorConfig: what stands between an encoder and the text
     ├── generation  GenerationConfig       generation_config.json
     └── quant   QuantConfig    quantization_config, or hf_quant_config.json

Keys that nothing reads (RoPE, `expand`, `intermediate_size` of the text) have no field. A key that would change the
arithmetic into something this engine does not compute is refused.

Source: spec sections 1, 8.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from workers.engine.encoders import SoundConfig, VisionConfig, read_sound, read_vision
from workers.engine.quant import QuantConfig
from workers.engine.sections import ConfigError, demand, divides, mismatch, read, read_json, section

__all__ = ["ConfigError", "GenerationConfig", "Mixer", "OmniConfig", "ProjectorConfig", "QuantConfig", "SoundConfig",
           "TextConfig", "VisionConfig"]  # fmt: skip

ARCHITECTURE = "NemotronH_Nano_Omni_Reasoning_V3"
DTYPES = ("bfloat16", "float32")

# What the one value of a key must be; another one means another model.
TEXT_ONLY = {
    "tie_word_embeddings": False, "attention_bias": False, "sliding_window": None, "use_conv_bias": True,
    "mamba_proj_bias": False, "mamba_hidden_act": "silu", "mlp_hidden_act": "relu2", "mlp_bias": False,
    "use_bias": False, "n_shared_experts": 1, "residual_in_fp32": False, "moe_latent_size": None,
    "num_nextn_predict_layers": 0, "n_group": 1, "topk_group": 1,
}  # fmt: skip
UNBOUND = 1e29  # an upper limit of a time step from here on limits nothing
TOP_ONLY = {"ps_version": "v2", "downsample_ratio": 0.5}


class Mixer(StrEnum):
    """What a block of the text model mixes with; the letter is that of the pattern."""

    MAMBA = "M"
    MOE = "E"
    ATTENTION = "*"


@dataclass(frozen=True, slots=True)
class TextConfig:
    """`llm_config`. The number of layers is the length of the pattern."""

    hidden_size: int
    vocab_size: int
    hybrid_override_pattern: str
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    mamba_num_heads: int
    mamba_head_dim: int
    n_groups: int
    ssm_state_size: int
    conv_kernel: int
    chunk_size: int
    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    moe_shared_expert_intermediate_size: int
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    time_step_limit: tuple[float, float] = (0.0, float("inf"))
    layer_norm_epsilon: float = 1e-5
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 0

    @property
    def layers(self) -> tuple[Mixer, ...]:
        return tuple(Mixer(letter) for letter in self.hybrid_override_pattern)

    def layers_of(self, mixer: Mixer) -> tuple[int, ...]:
        """Indices of the layers with this mixer, ascending."""
        return tuple(at for at, one in enumerate(self.layers) if one is mixer)

    @property
    def num_hidden_layers(self) -> int:
        return len(self.hybrid_override_pattern)

    @property
    def d_inner(self) -> int:
        """Width inside a Mamba mixer; `expand` of the file is not used."""
        return self.mamba_num_heads * self.mamba_head_dim

    @property
    def conv_dim(self) -> int:
        """Channels of the causal convolution: x, B and C side by side."""
        return self.d_inner + 2 * self.n_groups * self.ssm_state_size

    @property
    def in_proj_dim(self) -> int:
        """Rows of a Mamba in_proj: z, x, B, C, dt."""
        return self.d_inner + self.conv_dim + self.mamba_num_heads

    @property
    def q_dim(self) -> int:
        return self.num_attention_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.num_key_value_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class ProjectorConfig:
    """RMSNorm(in), linear in -> hidden, squared relu, linear hidden -> out."""

    in_size: int
    hidden_size: int
    out_size: int
    eps: float = 1e-5


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """`generation_config.json`; the defaults are those that NVIDIA ships."""

    eos_token_id: tuple[int, ...] = (2, 11)
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 16384
    reasoning_budget: int = 16384
    reasoning_grace: int = 512

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "GenerationConfig":
        eos = raw.get("eos_token_id", [2, 11])
        return read(cls, {**raw, "eos_token_id": [eos] if isinstance(eos, int) else eos}, "")


@dataclass(frozen=True, slots=True)
class OmniConfig:
    """The whole model."""

    text: TextConfig
    vision: VisionConfig
    sound: SoundConfig
    torch_dtype: str
    projector_hidden_size: int
    norm_mean: tuple[float, float, float]
    norm_std: tuple[float, float, float]
    img_context_token_id: int
    sound_context_token_id: int
    video_pruning_rate: float = 0.0
    img_context_token: str = "<image>"
    video_context_token: str = "<video>"
    img_start_token: str = "<img>"
    img_end_token: str = "</img>"
    sound_context_token: str = "<so_embedding>"
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    quant: QuantConfig = field(default_factory=QuantConfig)

    @property
    def image_projector(self) -> ProjectorConfig:
        """`mlp1`: its input is a square of 2 x 2 patches."""
        return ProjectorConfig(4 * self.vision.hidden_size, self.projector_hidden_size, self.text.hidden_size)

    @property
    def sound_projector(self) -> ProjectorConfig:
        return ProjectorConfig(self.sound.hidden_size, self.sound.projection_hidden_size, self.text.hidden_size)

    @classmethod
    def from_dir(cls, directory: Path) -> "OmniConfig":
        """Reads `config.json` and, where they are, `generation_config.json` and `hf_quant_config.json`."""
        raw = read_json(directory / "config.json")
        extra = {}
        if (directory / "generation_config.json").exists():
            extra["generation"] = GenerationConfig.from_dict(read_json(directory / "generation_config.json"))
        if (directory / "hf_quant_config.json").exists():
            extra["quant"] = QuantConfig.from_hf(read_json(directory / "hf_quant_config.json"))
        return cls.from_dict(raw, **extra)

    @classmethod
    def from_dict(cls, raw: dict[str, Any], **extra: Any) -> "OmniConfig":
        """From the object in `config.json`; `extra` gives `generation` and `quant` of other files.

        Raises:
            ConfigError: with the pointer of the key, what was expected and what came.
        """
        if raw.get("model_type") != ARCHITECTURE:
            raise mismatch("/model_type", f'"{ARCHITECTURE}"', raw.get("model_type"))
        dtype = raw.get("torch_dtype", raw.get("dtype"))  # transformers 5 renamed it
        if dtype not in DTYPES:
            raise mismatch("/torch_dtype", " or ".join(DTYPES), dtype)
        demand(raw, TOP_ONLY, "")
        if "quantization_config" in raw:
            # The record inside config.json stands above the one beside it.
            extra["quant"] = QuantConfig.from_config(section(raw, "quantization_config"))
        vision = read_vision(raw, section(raw, "vision_config"))
        text, sound = _text(section(raw, "llm_config")), read_sound(section(raw, "sound_config"))
        given = {"generation": GenerationConfig(), "quant": QuantConfig(), **extra}
        config = read(cls, raw, "", torch_dtype=dtype, text=text, vision=vision, sound=sound, **given)
        _check_tokens(config)
        return config


def _check_tokens(config: OmniConfig) -> None:
    # The id of <video> lies outside the vocabulary in the published file: it is no token, and has no field.
    for key in ("img_context_token_id", "sound_context_token_id"):
        if getattr(config, key) >= config.text.vocab_size:
            raise mismatch(f"/{key}", f"less than vocab_size = {config.text.vocab_size}", getattr(config, key))
    if not 0 <= config.video_pruning_rate < 1:
        raise mismatch("/video_pruning_rate", "at least 0 and less than 1", config.video_pruning_rate)


def _text(raw: dict[str, Any]) -> TextConfig:
    at = "/llm_config"
    demand(raw, TEXT_ONLY, at)
    text = read(TextConfig, raw, at)
    strange = set(text.hybrid_override_pattern) - set(Mixer)
    if strange or not text.hybrid_override_pattern:
        raise mismatch(f"{at}/hybrid_override_pattern", "letters M, E and *", text.hybrid_override_pattern)
    if raw.get("num_hidden_layers", text.num_hidden_layers) != text.num_hidden_layers:
        expected = f"{text.num_hidden_layers} as the pattern has"
        raise mismatch(f"{at}/num_hidden_layers", expected, raw["num_hidden_layers"])
    divides(at, "num_attention_heads", text.num_attention_heads, "num_key_value_heads", text.num_key_value_heads)
    divides(at, "mamba_num_heads", text.mamba_num_heads, "n_groups", text.n_groups)
    least, most = text.time_step_limit
    if least > 0 or most < UNBOUND:
        raise mismatch(f"{at}/time_step_limit", "steps without limits, [0.0, 1e30]", raw["time_step_limit"])
    if text.num_experts_per_tok > text.n_routed_experts:
        raise mismatch(f"{at}/num_experts_per_tok", f"at most {text.n_routed_experts}", text.num_experts_per_tok)
    return text
