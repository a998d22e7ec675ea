"""Every name of the official repositories, and exactly as many numbers as they hold."""

from collections import Counter
from functools import cache
from math import prod

import pytest

from workers.engine.checkpoint import configs
from workers.engine.checkpoint.expected import Expected, Part, linear_modules, recipe, table
from workers.engine.checkpoint.shards import ITEM_BYTES
from workers.engine.config import OmniConfig
from workers.engine.quant import Format

CONFIG = OmniConfig.from_dict(configs.reference())
LAYERS = "language_model.backbone.layers."


@cache
def repository(algo: str | None) -> dict[str, Expected]:
    """What NVIDIA publishes: no KV scales, but what nothing reads."""
    return {name: one for name, one in table(CONFIG, recipe(algo)).items() if one.ignored or not one.optional}


def test_the_bf16_repository_has_7349_names_and_33015598912_parameters() -> None:
    expected = repository(None)
    assert len(expected) == 7_349
    assert sum(one.parameters for one in expected.values()) == 33_015_598_912


def test_on_the_meta_device_the_shapes_hold_as_many_numbers() -> None:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.empty(one.shape, device="meta") for name, one in repository(None).items()}
    # A counter of each BatchNorm, and four tensors that nothing reads and whose shape nobody knows, are no parameters.
    assert sum(one.numel() for one in tensors.values()) == 33_015_598_912 + 24 + 4


@pytest.mark.parametrize(
    ("part", "tensors", "parameters"),
    [
        (Part.LANGUAGE, 6_243, 31_577_940_288),
        (Part.VISION, 390, 653_611_520),
        (Part.IMAGE_PROJECTOR, 3, 159_912_960),
        (Part.SOUND, 710, 608_928_768),
        (Part.SOUND_PROJECTOR, 3, 15_205_376),
    ],
)
def test_each_part_has_its_share(part: Part, tensors: int, parameters: int) -> None:
    ours = [one for one in repository(None).values() if one.part is part]
    assert (len(ours), sum(one.parameters for one in ours)) == (tensors, parameters)


@pytest.mark.parametrize(
    ("layer", "parameters"), [(0, 38_744_896), (1, 1_297_468_032 + 128), (5, 23_399_040)], ids=["M", "E", "*"]
)
def test_each_kind_of_layer_has_its_share(layer: int, parameters: int) -> None:
    ours = [one.parameters for name, one in repository(None).items() if name.startswith(f"{LAYERS}{layer}.")]
    assert sum(ours) == parameters


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("language_model.lm_head.weight", "BF16", (131072, 2688)),
        (f"{LAYERS}0.mixer.in_proj.weight", "BF16", (10304, 2688)),
        (f"{LAYERS}0.mixer.conv1d.weight", "BF16", (6144, 1, 4)),
        (f"{LAYERS}0.mixer.A_log", "BF16", (64,)),
        (f"{LAYERS}1.mixer.gate.e_score_correction_bias", "F32", (128,)),
        (f"{LAYERS}51.mixer.experts.127.down_proj.weight", "BF16", (2688, 1856)),
        (f"{LAYERS}42.mixer.k_proj.weight", "BF16", (256, 2688)),
        ("vision_model.radio_model.model.patch_generator.pos_embed", "BF16", (1, 16384, 1280)),
        ("vision_model.radio_model.model.blocks.31.attn.qkv.bias", "BF16", (3840,)),
        ("mlp1.1.weight", "BF16", (20480, 5120)),
        ("sound_encoder.encoder.subsampling.linear.weight", "BF16", (1024, 4096)),
        ("sound_encoder.encoder.layers.23.conv.norm.num_batches_tracked", "I64", ()),
        ("sound_encoder.encoder.layers.0.self_attn.bias_u", "BF16", (8, 128)),
        ("sound_projection.linear2.weight", "BF16", (2688, 4096)),
    ],
)
def test_names_and_shapes_are_those_of_the_specification(name: str, dtype: str, shape: tuple[int, ...]) -> None:
    one = repository(None)[name]
    assert (one.dtype, one.shape) == (dtype, shape)


def test_fp8_adds_two_scales_to_each_of_6004_layers() -> None:
    expected = repository("FP8")
    assert len(expected) == 7_349 + 2 * 6_004
    assert Counter(one.dtype for one in expected.values())["F8_E4M3"] == 6_004
    up = f"{LAYERS}1.mixer.experts.0.up_proj"
    assert (expected[f"{up}.weight"].dtype, expected[f"{up}.weight"].shape) == ("F8_E4M3", (1856, 2688))
    for scale in ("weight_scale", "input_scale"):
        assert (expected[f"{up}.{scale}"].dtype, expected[f"{up}.{scale}"].shape) == ("F32", ())


def test_nvfp4_is_for_routed_experts_and_the_rest_is_fp8_or_stays() -> None:
    formats = {module: recipe("NVFP4")(module) for module in linear_modules(CONFIG)}
    assert Counter(formats.values()) == {Format.NVFP4: 5_888, Format.FP8: 98, Format.DENSE: 18}
    expected = repository("NVFP4")
    for module, packed, blocks in (("up_proj", (1856, 1344), (1856, 168)), ("down_proj", (2688, 928), (2688, 116))):
        name = f"{LAYERS}1.mixer.experts.7.{module}"
        assert (expected[f"{name}.weight"].dtype, expected[f"{name}.weight"].shape) == ("U8", packed)
        assert (expected[f"{name}.weight_scale"].dtype, expected[f"{name}.weight_scale"].shape) == ("F8_E4M3", blocks)
        assert {expected[f"{name}.{scale}"].shape for scale in ("weight_scale_2", "input_scale")} == {()}
    assert expected[f"{LAYERS}5.mixer.q_proj.weight"].dtype == "BF16"
    assert expected[f"{LAYERS}5.mixer.o_proj.weight"].dtype == "F8_E4M3"


@pytest.mark.parametrize(("algo", "gib"), [(None, 61.50), ("FP8", 32.75), ("NVFP4", 20.85)])
def test_the_repositories_have_their_published_size(algo: str | None, gib: float) -> None:
    size = sum(ITEM_BYTES[one.dtype] * prod(one.shape) for one in repository(algo).values())
    assert size / 2**30 == pytest.approx(gib, abs=0.005)


def test_quantising_changes_no_count_of_parameters() -> None:
    counts = {sum(one.parameters for one in repository(algo).values()) for algo in (None, "FP8", "NVFP4")}
    assert counts == {33_015_598_912}


def test_kv_scales_may_be_there() -> None:
    scale = table(CONFIG)[f"{LAYERS}5.mixer.k_proj.k_scale"]
    assert (scale.optional, scale.dtype, scale.shape, scale.parameters) == (True, "F32", (), 0)


def test_the_tiny_model_has_all_parts_and_a_million_parameters() -> None:
    expected = table(OmniConfig.from_dict(configs.tiny())).values()
    assert {one.part for one in expected} == set(Part)
    # transformers counts 1,175,816 and leaves out the 24 router biases.
    assert sum(one.parameters for one in expected) == 1_175_816 + 24


def test_the_slice_has_the_real_sizes() -> None:
    sliced = table(OmniConfig.from_dict(configs.sliced()))
    whole = repository(None)
    renumbered = {0: 0, 1: 1, 2: 5, 3: 3}  # ME*E among the layers of the whole
    for name, one in sliced.items():
        for ours, theirs in renumbered.items():
            if name.startswith(f"{LAYERS}{ours}."):
                name = name.replace(f"{LAYERS}{ours}.", f"{LAYERS}{theirs}.")
                break
        if not one.optional:
            assert whole[name].shape == one.shape, name
    assert sum(".blocks.1." in name for name in sliced) == 12 and not any(".blocks.2." in name for name in sliced)
