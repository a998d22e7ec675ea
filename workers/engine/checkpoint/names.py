"""The name of every tensor of an official directory.

The tables are those of spec 7, a row a tensor: name below its layer, shape in the letters of `sizes_of`, and what it
holds; `{e}` counts the experts. A row marked LINEAR may be quantised (spec 8); `expected.py` gives it its scales.
"""

from collections.abc import Iterator

from workers.engine.config import Mixer, OmniConfig

# What a row holds.
FLOAT = "the model's dtype"
LINEAR = "the model's dtype, or quantised"
F32 = "F32"
COUNT = "I64"
UNUSED = "ignored"  # may be absent; neither its shape nor its dtype is settled by any source

LANGUAGE = (
    ("embeddings.weight", "vocab hidden", FLOAT),
    ("norm_f.weight", "hidden", FLOAT),
)
HEAD = (("lm_head.weight", "vocab hidden", FLOAT),)
MIXERS = {
    Mixer.MAMBA: (
        ("norm.weight", "hidden", FLOAT),
        ("mixer.in_proj.weight", "in_proj hidden", LINEAR),  # z, x, B, C, dt
        ("mixer.conv1d.weight", "conv 1 taps", FLOAT),
        ("mixer.conv1d.bias", "conv", FLOAT),
        ("mixer.A_log", "mamba_heads", FLOAT),
        ("mixer.D", "mamba_heads", FLOAT),
        ("mixer.dt_bias", "mamba_heads", FLOAT),
        ("mixer.norm.weight", "inner", FLOAT),
        ("mixer.out_proj.weight", "hidden inner", LINEAR),
    ),
    Mixer.ATTENTION: (
        ("norm.weight", "hidden", FLOAT),
        ("mixer.q_proj.weight", "q hidden", LINEAR),
        ("mixer.k_proj.weight", "kv hidden", LINEAR),
        ("mixer.v_proj.weight", "kv hidden", LINEAR),
        ("mixer.o_proj.weight", "hidden q", LINEAR),
    ),
    Mixer.MOE: (
        ("norm.weight", "hidden", FLOAT),
        ("mixer.gate.weight", "experts hidden", FLOAT),
        ("mixer.gate.e_score_correction_bias", "experts", F32),
        ("mixer.experts.{e}.up_proj.weight", "expert hidden", LINEAR),
        ("mixer.experts.{e}.down_proj.weight", "hidden expert", LINEAR),
        ("mixer.shared_experts.up_proj.weight", "shared hidden", LINEAR),
        ("mixer.shared_experts.down_proj.weight", "hidden shared", LINEAR),
    ),
}

VISION = (
    ("input_conditioner.norm_mean", "", UNUSED),
    ("input_conditioner.norm_std", "", UNUSED),
    ("model.patch_generator.embedder.weight", "vit patch", FLOAT),
    ("model.patch_generator.video_embedder.weight", "vit tubelet", FLOAT),
    ("model.patch_generator.pos_embed", "1 grid vit", FLOAT),
    ("model.patch_generator.cls_token.token", "prefix vit", FLOAT),
)
VISION_BLOCK = (
    ("norm1.weight", "vit", FLOAT),
    ("norm1.bias", "vit", FLOAT),
    ("attn.qkv.weight", "vit_qkv vit", FLOAT),
    ("attn.qkv.bias", "vit_qkv", FLOAT),
    ("attn.proj.weight", "vit vit", FLOAT),
    ("attn.proj.bias", "vit", FLOAT),
    ("norm2.weight", "vit", FLOAT),
    ("norm2.bias", "vit", FLOAT),
    ("mlp.fc1.weight", "vit_mlp vit", FLOAT),
    ("mlp.fc1.bias", "vit_mlp", FLOAT),
    ("mlp.fc2.weight", "vit vit_mlp", FLOAT),
    ("mlp.fc2.bias", "vit", FLOAT),
)
IMAGE_PROJECTOR = (
    ("0.weight", "image_in", FLOAT),
    ("1.weight", "image_mid image_in", FLOAT),
    ("3.weight", "hidden image_mid", FLOAT),
)

SOUND = (
    ("feature_extractor.featurizer.fb", "", UNUSED),
    ("feature_extractor.featurizer.window", "", UNUSED),
    ("subsampling.layers.0.weight", "sub 1 3 3", FLOAT),
    ("subsampling.layers.0.bias", "sub", FLOAT),
    ("subsampling.layers.2.weight", "sub 1 3 3", FLOAT),
    ("subsampling.layers.2.bias", "sub", FLOAT),
    ("subsampling.layers.3.weight", "sub sub 1 1", FLOAT),
    ("subsampling.layers.3.bias", "sub", FLOAT),
    ("subsampling.layers.5.weight", "sub 1 3 3", FLOAT),
    ("subsampling.layers.5.bias", "sub", FLOAT),
    ("subsampling.layers.6.weight", "sub sub 1 1", FLOAT),
    ("subsampling.layers.6.bias", "sub", FLOAT),
    ("subsampling.linear.weight", "sound sub_out", FLOAT),
    ("subsampling.linear.bias", "sound", FLOAT),
)
SOUND_BLOCK = (
    ("norm_feed_forward1.weight", "sound", FLOAT),
    ("norm_feed_forward1.bias", "sound", FLOAT),
    ("feed_forward1.linear1.weight", "sound_mlp sound", FLOAT),
    ("feed_forward1.linear2.weight", "sound sound_mlp", FLOAT),
    ("norm_self_att.weight", "sound", FLOAT),
    ("norm_self_att.bias", "sound", FLOAT),
    ("self_attn.q_proj.weight", "sound sound", FLOAT),
    ("self_attn.k_proj.weight", "sound sound", FLOAT),
    ("self_attn.v_proj.weight", "sound sound", FLOAT),
    ("self_attn.o_proj.weight", "sound sound", FLOAT),
    ("self_attn.relative_k_proj.weight", "sound sound", FLOAT),
    ("self_attn.bias_u", "sound_heads sound_head", FLOAT),
    ("self_attn.bias_v", "sound_heads sound_head", FLOAT),
    ("norm_conv.weight", "sound", FLOAT),
    ("norm_conv.bias", "sound", FLOAT),
    ("conv.pointwise_conv1.weight", "glu sound 1", FLOAT),
    ("conv.depthwise_conv.weight", "sound 1 sound_taps", FLOAT),
    ("conv.norm.weight", "sound", FLOAT),
    ("conv.norm.bias", "sound", FLOAT),
    ("conv.norm.running_mean", "sound", FLOAT),
    ("conv.norm.running_var", "sound", FLOAT),
    ("conv.norm.num_batches_tracked", "", COUNT),
    ("conv.pointwise_conv2.weight", "sound sound 1", FLOAT),
    ("norm_feed_forward2.weight", "sound", FLOAT),
    ("norm_feed_forward2.bias", "sound", FLOAT),
    ("feed_forward2.linear1.weight", "sound_mlp sound", FLOAT),
    ("feed_forward2.linear2.weight", "sound sound_mlp", FLOAT),
    ("norm_out.weight", "sound", FLOAT),
    ("norm_out.bias", "sound", FLOAT),
)
SOUND_PROJECTOR = (
    ("norm.weight", "sound", FLOAT),
    ("linear1.weight", "sound_mid sound", FLOAT),
    ("linear2.weight", "hidden sound_mid", FLOAT),
)

BACKBONE = "language_model.backbone."
RADIO = "vision_model.radio_model."
PARAKEET = "sound_encoder.encoder."
Rows = tuple[tuple[str, str, str], ...]


def sizes_of(config: OmniConfig) -> dict[str, int]:
    """The letters of the tables."""
    text, vision, sound = config.text, config.vision, config.sound
    return {
        "vocab": text.vocab_size,
        "hidden": text.hidden_size,
        "inner": text.d_inner,
        "conv": text.conv_dim,
        "taps": text.conv_kernel,
        "in_proj": text.in_proj_dim,
        "mamba_heads": text.mamba_num_heads,
        "q": text.q_dim,
        "kv": text.kv_dim,
        "experts": text.n_routed_experts,
        "expert": text.moe_intermediate_size,
        "shared": text.moe_shared_expert_intermediate_size,
        "vit": vision.hidden_size,
        "vit_qkv": 3 * vision.hidden_size,
        "vit_mlp": vision.intermediate_size,
        "patch": vision.patch_dim,
        "tubelet": vision.video_patch_dim,
        "grid": vision.grid_size**2,
        "prefix": vision.num_prefix_tokens,
        "image_in": config.image_projector.in_size,
        "image_mid": config.image_projector.hidden_size,
        "sound": sound.hidden_size,
        "sound_mlp": sound.intermediate_size,
        "sound_heads": sound.num_attention_heads,
        "sound_head": sound.head_dim,
        "sound_taps": sound.conv_kernel_size,
        "glu": 2 * sound.hidden_size,
        "sub": sound.subsampling_conv_channels,
        "sub_out": sound.subsampling_conv_channels * sound.subsampled_bins,
        "sound_mid": config.sound_projector.hidden_size,
    }


def rows_of(config: OmniConfig) -> Iterator[tuple[str, str, str]]:
    """Every row with its full name, in the order of the model."""
    yield from _under(BACKBONE, LANGUAGE)
    yield from _under("language_model.", HEAD)
    for at, mixer in enumerate(config.text.layers):
        for name, shape, holds in _under(f"{BACKBONE}layers.{at}.", MIXERS[mixer]):
            for expert in range(config.text.n_routed_experts if "{e}" in name else 1):
                yield name.replace("{e}", str(expert)), shape, holds
    yield from _under(RADIO, VISION)
    for at in range(config.vision.num_hidden_layers):
        yield from _under(f"{RADIO}model.blocks.{at}.", VISION_BLOCK)
    yield from _under("mlp1.", IMAGE_PROJECTOR)
    yield from _under(PARAKEET, SOUND)
    for at in range(config.sound.num_hidden_layers):
        yield from _under(f"{PARAKEET}layers.{at}.", SOUND_BLOCK)
    yield from _under("sound_projection.", SOUND_PROJECTOR)


def _under(prefix: str, rows: Rows) -> Iterator[tuple[str, str, str]]:
    return ((prefix + name, shape, holds) for name, shape, holds in rows)
