"""The configuration: what follows from it, and what is said of a key that is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omni_jobs.errors import UsageError
from workers.engine.checkpoint import configs
from workers.engine.config import ConfigError, Mixer, OmniConfig
from workers.engine.quant import Format


def put(raw: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    *above, last = path.split("/")
    inner = raw
    for key in above:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return raw


def test_the_published_file_gives_the_published_sizes() -> None:
    config = OmniConfig.from_dict(configs.reference())
    text, vision, sound = config.text, config.vision, config.sound
    assert [len(text.layers_of(mixer)) for mixer in Mixer] == [23, 23, 6]
    assert text.layers_of(Mixer.ATTENTION) == (5, 12, 19, 26, 33, 42)
    assert (text.num_hidden_layers, text.d_inner, text.conv_dim, text.in_proj_dim) == (52, 4096, 6144, 10304)
    assert (text.q_dim, text.kv_dim, text.time_step_limit) == (4096, 256, (0.0, 1e30))
    # Nothing of this is in the file: it follows from the name of the timm model and from its arguments.
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (1280, 32, 16)
    assert (vision.head_dim, vision.intermediate_size, vision.layer_norm_eps) == (80, 5120, 1e-6)
    assert (vision.num_prefix_tokens, vision.grid_size, vision.patch_dim, vision.video_patch_dim) == (
        10,
        128,
        768,
        1536,
    )
    assert (sound.head_dim, sound.subsampled_bins) == (128, 16)
    assert [config.image_projector.in_size, config.image_projector.hidden_size] == [5120, 20480]
    assert [config.sound_projector.in_size, config.sound_projector.hidden_size] == [1024, 4096]
    assert config.image_projector.out_size == config.sound_projector.out_size == 2688
    assert config.quant.algo is None and config.generation.eos_token_id == (2, 11)


def test_sizes_that_a_file_states_stand_above_the_name_of_a_model() -> None:
    vision = OmniConfig.from_dict(configs.tiny()).vision
    assert (vision.hidden_size, vision.num_hidden_layers, vision.grid_size, vision.num_prefix_tokens) == (64, 2, 16, 10)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("llm_config/rope_theta", 1.0),
        ("llm_config/expand", 9),
        ("llm_config/intermediate_size", 1),
        ("use_thumbnail", 0),
    ],
)
def test_keys_that_nothing_reads_change_nothing(path: str, value: object) -> None:
    assert OmniConfig.from_dict(put(configs.tiny(), path, value)) == OmniConfig.from_dict(configs.tiny())


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("model_type", "llama", 'expected "NemotronH_Nano_Omni_Reasoning_V3", got "llama"'),
        ("torch_dtype", "float16", "expected bfloat16 or float32"),
        ("ps_version", "v1", 'expected "v2"'),
        ("llm_config", ..., "expected an object, got nothing"),
        ("llm_config", [1], "expected an object, got [1]"),
        ("llm_config/hidden_size", ..., "expected a whole number of at least 1, got nothing"),
        ("llm_config/hidden_size", "96", 'expected a whole number of at least 1, got "96"'),
        ("llm_config/hidden_size", True, "got true"),
        ("llm_config/hidden_size", 96.0, "got 96.0"),
        ("llm_config/hidden_size", -96, "got -96"),
        ("llm_config/routed_scaling_factor", float("nan"), "expected a number, got NaN"),
        ("llm_config/time_step_limit", [0.0], "expected a list of 2 times a number, got [0.0]"),
        ("llm_config/time_step_limit", [0.001, 1e30], "expected steps without limits, [0.0, 1e30], got [0.001, 1e+30]"),
        ("llm_config/time_step_limit", [0.0, 0.1], "expected steps without limits"),
        ("llm_config/n_group", 2, "expected 1 (nothing else is computed here), got 2"),
        ("llm_config/topk_group", 2, "expected 1"),
        ("llm_config/hybrid_override_pattern", "ME-*", "expected letters M, E and *"),
        ("llm_config/hybrid_override_pattern", "", "expected letters M, E and *"),
        ("llm_config/num_hidden_layers", 6, "expected 7 as the pattern has, got 6"),
        ("llm_config/num_attention_heads", 3, "a multiple of num_key_value_heads = 2, got 3"),
        ("llm_config/mamba_num_heads", 7, "a multiple of n_groups = 2, got 7"),
        ("llm_config/num_experts_per_tok", 9, "expected at most 8, got 9"),
        ("llm_config/tie_word_embeddings", True, "expected false (nothing else is computed here), got true"),
        ("llm_config/mlp_hidden_act", "silu", 'expected "relu2"'),
        ("llm_config/moe_latent_size", 64, "expected null"),
        ("vision_config/args/model", ["x"], None),
        ("vision_config/args", ..., "expected an object"),
        ("vision_config/args/max_num_patches", 65, "expected 64"),
        ("vision_config/num_attention_heads", 5, "a multiple of num_attention_heads = 5, got 64"),
        ("vision_config/max_img_size", 63, "a multiple of patch_size = 4"),
        ("video_temporal_patch_size", 4, "expected 2"),
        ("vit_hidden_size", 1280, "expected 64"),
        ("sound_config/attention_bias", True, "expected false"),
        ("sound_config/scale_input", True, "expected false"),
        ("sound_config/sampling_rate", 8000, "expected 16000"),
        ("sound_config/conv_kernel_size", 8, "expected an odd number, as many taps before as behind, got 8"),
        ("sound_config/num_mel_bins", 81, "a multiple of subsampling_factor = 8"),
        ("img_context_token_id", 1280, "expected less than vocab_size = 1280"),
        ("norm_mean", [0.5, 0.5, "x"], 'expected a number, got "x"'),
        ("video_pruning_rate", 1.0, "less than 1, got 1.0"),
    ],
)
def test_a_wrong_key_is_named_with_what_was_expected_and_what_came(path: str, value: object, said: str | None) -> None:
    raw = put(configs.tiny(), path, value)
    if said is None:  # the sizes stand in the tiny file, so the model's name is not asked
        OmniConfig.from_dict(raw)
        return
    with pytest.raises(ConfigError) as raised:
        OmniConfig.from_dict(raw)
    error = raised.value
    assert said in str(error)
    assert error.pointer is not None and (error.pointer.startswith(f"/{path}") or "multiple" in said)
    assert isinstance(error, UsageError) and isinstance(error, ValueError)


def test_without_sizes_an_unknown_vision_model_is_refused() -> None:
    raw = put(configs.reference(), "vision_config/args/model", "vit_small")
    with pytest.raises(ConfigError, match=r"/vision_config/hidden_size: expected a whole number"):
        OmniConfig.from_dict(raw)


def write(folder: Path, **files: object) -> Path:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def test_a_directory_brings_its_other_files_along(tmp_path: Path) -> None:
    write(tmp_path, config=configs.tiny(), generation_config={"eos_token_id": 11, "temperature": 0.5})
    config = OmniConfig.from_dir(tmp_path)
    assert (config.generation.eos_token_id, config.generation.temperature) == ((11,), 0.5)
    assert config.generation.top_p == 0.95


def test_both_records_of_the_quantiser_say_the_same(tmp_path: Path) -> None:
    layers = {"language_model.backbone.layers.1.mixer.experts.0.up_proj": Format.NVFP4, "b": Format.FP8}
    record = configs.quantization_config("NVFP4", layers)
    inside = OmniConfig.from_dict({**configs.tiny(), "quantization_config": record}).quant
    write(tmp_path, config=configs.tiny(), hf_quant_config=configs.hf_quant_config(record))
    assert OmniConfig.from_dir(tmp_path).quant == inside
    assert inside.layers == layers and inside.kv_fp8 and inside.algo == "MIXED_PRECISION"


def test_the_record_of_an_fp8_repository_says_what_is_left_out() -> None:
    record = configs.quantization_config("FP8", {})
    quant = OmniConfig.from_dict({**configs.tiny(), "quantization_config": record}).quant
    assert quant.algo == "FP8" and "lm_head" in quant.ignored and not quant.layers


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quant_method": "gptq"}, 'quant_method: expected "modelopt", got "gptq"'),
        ({"quant_algo": "INT4"}, "quant_algo: expected FP8, NVFP4 or MIXED_PRECISION"),
        ({"kv_cache_scheme": {"num_bits": 4, "type": "float"}}, "kv_cache_scheme: expected 8 bits of type float"),
        ({"quantized_layers": {"a": {"quant_algo": "INT8"}}}, 'quantized_layers/a: expected FP8 or NVFP4, got "INT8"'),
        ({"quantized_layers": {"a": {"quant_algo": "NVFP4", "group_size": 32}}}, "group_size: expected 16, got 32"),
        ({"ignore": "lm_head"}, "ignore: expected a list of names"),
    ],
)
def test_a_record_that_cannot_be_meant_is_refused(change: dict[str, Any], said: str) -> None:
    record = configs.quantization_config("NVFP4", {}) | change
    with pytest.raises(ConfigError, match=said):
        OmniConfig.from_dict({**configs.tiny(), "quantization_config": record})


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder: None, "cannot be read: No such file"),
        (lambda folder: write(folder, config="{"), "expected JSON"),
        (lambda folder: write(folder, config="[" * 100_000), "expected JSON"),
        (lambda folder: write(folder, config=[1]), "expected a JSON object, got list"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "expected JSON"),
        (lambda folder: (folder / "config.json").mkdir(), "cannot be read"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, prepare: Callable[[Path], object], said: str
) -> None:
    prepare(tmp_path)
    with pytest.raises(ConfigError, match=said):
        OmniConfig.from_dir(tmp_path)
