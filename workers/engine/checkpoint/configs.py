"""Three configurations as `config.json` has them: the published one, one of a million parameters, and a slice.

And the files beside it, as far as they are not weights.
"""

from pathlib import Path
from typing import Any

from workers.engine.quant import Format
from workers.engine.sections import read_json

HERE = Path(__file__).parent
SLICE_PATTERN = "ME*E"
SLICE_ENCODER_LAYERS = 2

# Keys that transformers' RadioConfig reads; the published file leaves them to the name of a timm model (spec 12.1).
RADIO_SIZES = {
    "hidden_size": 1280, "num_attention_heads": 16, "mlp_ratio": 4.0, "layer_norm_eps": 1e-6,
    "max_img_size": 2048, "num_cls_tokens": 4, "num_registers": 6,
}  # fmt: skip
PRODUCER = {"name": "modelopt", "version": "0.43.0"}
DENSE_MODULES = ["lm_head", "*.gate", "*.conv1d", "vision_model*", "mlp1*", "sound_encoder*", "sound_projection*"]


def reference() -> dict[str, Any]:
    """The BF16 repository's: 33,015,598,912 parameters."""
    return read_json(HERE / "reference.config.json")


def tiny() -> dict[str, Any]:
    """Every part of the model in small, in fp32, for tests on a CPU."""
    return read_json(HERE / "tiny.config.json")


def sliced() -> dict[str, Any]:
    """Real sizes, 4 layers of text and 2 blocks of each encoder: what a card's arithmetic is compared on."""
    raw = reference()
    raw["llm_config"] |= {"hybrid_override_pattern": SLICE_PATTERN, "num_hidden_layers": len(SLICE_PATTERN)}
    raw["vision_config"] |= {**RADIO_SIZES, "num_hidden_layers": SLICE_ENCODER_LAYERS}
    raw["sound_config"]["num_hidden_layers"] = SLICE_ENCODER_LAYERS
    return raw


def quantization_config(algo: str, formats: dict[str, Format]) -> dict[str, Any]:
    """The record in config.json; NVFP4 repositories list each layer, FP8 ones what is left out (spec 1.6, 8.2)."""
    record: dict[str, Any] = {
        "quant_method": "modelopt",
        "quant_algo": "FP8" if algo == "FP8" else "MIXED_PRECISION",
        "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
        "producer": PRODUCER,
        "ignore": DENSE_MODULES if algo == "FP8" else [],
    }
    if algo != "FP8":
        record["quantized_layers"] = {
            module: {"quant_algo": "NVFP4", "group_size": 16} if format is Format.NVFP4 else {"quant_algo": "FP8"}
            for module, format in formats.items()
            if format is not Format.DENSE
        }
    return record


def hf_quant_config(record: dict[str, Any]) -> dict[str, Any]:
    """The same facts in the shape of hf_quant_config.json."""
    inner = {"quant_algo": record["quant_algo"], "kv_cache_quant_algo": "FP8", "exclude_modules": record["ignore"]}
    if "quantized_layers" in record:
        inner["quantized_layers"] = record["quantized_layers"]
    return {"producer": record["producer"], "quantization": inner}


def generation_config() -> dict[str, Any]:
    """Source: spec 1.5."""
    return {
        "bos_token_id": 1, "eos_token_id": [2, 11], "pad_token_id": 0, "do_sample": True, "temperature": 0.6,
        "top_p": 0.95, "max_new_tokens": 16384, "reasoning_budget": 16384, "reasoning_grace": 512,
        "repetition_penalty": 1.0,
    }  # fmt: skip


def special_tokens() -> dict[str, Any]:
    """What special_tokens_map.json says. Source: spec 6.2."""
    return {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<unk>", "unk_token": "<unk>"}


def tokenizer_config() -> dict[str, Any]:
    """What transformers needs to load tokenizer.json; a prompt begins without `<s>` (spec 5.1)."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        **special_tokens(),
    }


def chat_template() -> str:
    """chat_template.jinja: what `template.py` writes, for clients that template by themselves."""
    return (HERE / "chat_template.jinja").read_text(encoding="utf-8")


def preprocessor_config(raw: dict[str, Any]) -> dict[str, Any]:
    """Source: spec 1.5."""
    vision = raw["vision_config"]
    return {
        "image_processor_type": "NemotronH_Nano_Omni_Reasoning_V3ImageProcessor",
        "patch_size": raw["patch_size"],
        "downsample_ratio": raw["downsample_ratio"],
        "norm_mean": raw["norm_mean"],
        "norm_std": raw["norm_std"],
        "min_num_patches": vision["min_num_patches"],
        "max_num_patches": vision["max_num_patches"],
        "max_model_len": 16384,
    }
