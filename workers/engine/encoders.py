"""What `config.json` says about the two encoders.

Source: spec 1.3, 1.4, 12.1.
"""

from dataclasses import dataclass
from typing import Any

from workers.engine.sections import demand, divides, mismatch, read, section

# What the one value of a key must be; another one means another model.
VISION_ONLY = {"vitdet_window_size": None, "separate_video_embedder": True}
SOUND_ONLY = {
    "convolution_bias": False, "projection_bias": False, "attention_bias": False, "scale_input": False,
    "subsampling_conv_kernel_size": 3, "subsampling_conv_stride": 2, "subsampling_factor": 8, "sampling_rate": 16_000,
}  # fmt: skip

# Sizes that follow from the name of a timm model: width, layers, heads, MLP over width.
VISION_SIZES = {"vit_huge_patch16_224": (1280, 32, 16, 4.0)}


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """`vision_config`. The sizes follow from `args.model`; keys of transformers' RadioConfig stand above them."""

    patch_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    mlp_ratio: float
    max_img_size: int
    num_cls_tokens: int
    num_registers: int
    min_num_patches: int
    max_num_patches: int
    video_target_num_patches: int
    video_maintain_aspect_ratio: bool = True
    video_temporal_patch_size: int = 2
    layer_norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def intermediate_size(self) -> int:
        return round(self.hidden_size * self.mlp_ratio)

    @property
    def num_prefix_tokens(self) -> int:
        """Learned tokens in front of the patches, dropped after the last block."""
        return self.num_cls_tokens + self.num_registers

    @property
    def grid_size(self) -> int:
        """Rows, and columns, of the position table."""
        return self.max_img_size // self.patch_size

    @property
    def patch_dim(self) -> int:
        return 3 * self.patch_size**2

    @property
    def video_patch_dim(self) -> int:
        return self.video_temporal_patch_size * self.patch_dim


@dataclass(frozen=True, slots=True)
class SoundConfig:
    """`sound_config`."""

    hidden_size: int
    num_attention_heads: int
    num_hidden_layers: int
    intermediate_size: int
    conv_kernel_size: int
    subsampling_conv_channels: int
    subsampling_factor: int
    num_mel_bins: int
    projection_hidden_size: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def subsampled_bins(self) -> int:
        """Mel bins that are left after the strided convolutions."""
        return self.num_mel_bins // self.subsampling_factor


def read_vision(top: dict[str, Any], raw: dict[str, Any]) -> VisionConfig:
    """From `vision_config`; `top` is all of config.json, which repeats some of it."""
    at = "/vision_config"
    demand(raw, VISION_ONLY, at)
    args = section(raw, "args", at)
    for key in ("min_num_patches", "max_num_patches"):
        demand(args, {key: raw[key]} if key in raw else {}, f"{at}/args")
    for key in ("patch_size", "video_temporal_patch_size"):
        demand(top, {key: raw[key]} if key in raw else {}, "")
    vision = read(VisionConfig, {**_from_args(args), **args, **raw}, at)
    demand(top, {"vit_hidden_size": vision.hidden_size}, "")
    divides(at, "hidden_size", vision.hidden_size, "num_attention_heads", vision.num_attention_heads)
    divides(at, "max_img_size", vision.max_img_size, "patch_size", vision.patch_size)
    return vision


def _from_args(args: dict[str, Any]) -> dict[str, Any]:
    """Sizes that timm's training arguments imply."""
    sizes = VISION_SIZES.get(str(args.get("model")))
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio")
    found: dict[str, Any] = dict(zip(names, sizes, strict=True)) if sizes else {}
    teachers, multiple = args.get("teachers"), args.get("register_multiple")
    if isinstance(teachers, list) and type(multiple) is int and multiple > 0:
        classes = len({_name(one) for one in teachers}) if args.get("cls_token_per_teacher") else 1
        found |= {"num_cls_tokens": classes, "num_registers": multiple - classes % multiple}
    return found | ({"max_img_size": args["cpe_max_size"]} if "cpe_max_size" in args else {})


def _name(teacher: Any) -> str:
    return str(teacher.get("name")) if isinstance(teacher, dict) else str(teacher)


def read_sound(raw: dict[str, Any]) -> SoundConfig:
    """From `sound_config`."""
    at = "/sound_config"
    demand(raw, SOUND_ONLY, at)
    sound = read(SoundConfig, raw, at)
    divides(at, "hidden_size", sound.hidden_size, "num_attention_heads", sound.num_attention_heads)
    if sound.conv_kernel_size % 2 == 0:
        raise mismatch(f"{at}/conv_kernel_size", "an odd number, as many taps before as behind", sound.conv_kernel_size)
    divides(at, "num_mel_bins", sound.num_mel_bins, "subsampling_factor", sound.subsampling_factor)
    return sound
