"""Which tensors a directory must, or may, hold: names, shapes and dtypes, from the configuration alone.

Source: spec 7 for the tensors, 8 for what becomes of a quantised weight.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import prod

from workers.engine.checkpoint.names import BACKBONE, COUNT, F32, LINEAR, UNUSED, rows_of, sizes_of
from workers.engine.config import Mixer, OmniConfig
from workers.engine.quant import GROUP_SIZE, Format

DTYPES = {"bfloat16": "BF16", "float32": "F32"}  # of config.json, in the words of safetensors
# Scales of an E4M3 KV cache, which a quantised checkpoint may bring along: F32 scalars.
KV_SCALES = ("k_proj.k_scale", "v_proj.v_scale")


class Part(StrEnum):
    """What a tensor belongs to, as the first word of its name says."""

    LANGUAGE = "language_model"
    VISION = "vision_model"
    IMAGE_PROJECTOR = "mlp1"
    SOUND = "sound_encoder"
    SOUND_PROJECTOR = "sound_projection"


@dataclass(frozen=True, slots=True)
class Expected:
    """One tensor that a directory must, or may, hold.

    Attributes:
        dtype: in safetensors' words (`BF16`, `F32`, `F8_E4M3`, `U8`, `I64`).
        parameters: numbers of the model in it; 0 for scales, counters and what nothing reads.
        optional: may be absent.
        ignored: nothing reads it, so its shape and dtype are not looked at.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int = 0
    optional: bool = False
    ignored: bool = False

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def part(self) -> Part:
        return Part(self.name.partition(".")[0])


def table(config: OmniConfig, format_of: Callable[[str], Format] = lambda module: Format.DENSE) -> dict[str, Expected]:
    """Every tensor by name, in the order of the model.

    Args:
        format_of: gives the format of a linear module of the text by its name (`recipe` is one).
    """
    sizes = sizes_of(config)
    dtype = DTYPES[config.torch_dtype]
    rows = (one for row in rows_of(config) for one in _expected(*row, sizes, dtype, format_of))
    return {one.name: one for one in (*rows, *_kv_scales(config))}


def linear_modules(config: OmniConfig) -> Iterator[str]:
    """Names of the modules that may be quantised."""
    return (name.removesuffix(".weight") for name, _, holds in rows_of(config) if holds == LINEAR)


def recipe(algo: str | None) -> Callable[[str], Format]:
    """Which module NVIDIA quantised to what: None is the BF16 repository, then `FP8` and `NVFP4` (spec 8.1)."""
    if algo is None:
        return lambda module: Format.DENSE
    if algo == "FP8":
        return lambda module: Format.FP8
    return _nvfp4_recipe


def _nvfp4_recipe(module: str) -> Format:
    if ".experts." in module:
        return Format.NVFP4
    return Format.DENSE if module.endswith(("q_proj", "k_proj", "v_proj")) else Format.FP8


def _expected(
    name: str, letters: str, holds: str, sizes: dict[str, int], dtype: str, format_of: Callable[[str], Format]
) -> Iterator[Expected]:
    if holds == UNUSED:
        yield Expected(name, (), dtype, optional=True, ignored=True)
        return
    shape = tuple(sizes[one] if one in sizes else int(one) for one in letters.split())
    if holds == COUNT:
        yield Expected(name, shape, COUNT)
    elif holds == LINEAR:
        yield from _linear(name, shape, dtype, format_of(name.removesuffix(".weight")))
    else:
        yield Expected(name, shape, F32 if holds == F32 else dtype, prod(shape))


def _linear(name: str, shape: tuple[int, ...], dtype: str, format: Format) -> Iterator[Expected]:
    out, width = shape
    module = name.removesuffix(".weight")
    if format is Format.DENSE:
        yield Expected(name, shape, dtype, prod(shape))
        return
    if format is Format.FP8:
        yield Expected(name, shape, "F8_E4M3", prod(shape))
        yield Expected(f"{module}.weight_scale", (), F32)
    else:
        yield Expected(name, (out, width // 2), "U8", prod(shape))
        yield Expected(f"{module}.weight_scale", (out, width // GROUP_SIZE), "F8_E4M3")
        yield Expected(f"{module}.weight_scale_2", (), F32)
    yield Expected(f"{module}.input_scale", (), F32)


def _kv_scales(config: OmniConfig) -> Iterator[Expected]:
    for at in config.text.layers_of(Mixer.ATTENTION):
        for name in KV_SCALES:
            yield Expected(f"{BACKBONE}layers.{at}.mixer.{name}", (), F32, optional=True)
