"""The quantisation record: who wrote the checkpoint's formats down, and what it says of each layer.

The record is a witness, not the judge: a tensor's dtype and its scales say in which format it is (the reader looks
there). What the record decides is the KV cache's format, and it is compared with the tensors.

Source: spec 1.6, 8.2, 8.4; ModelOpt writes the same facts in two shapes, `quantization_config` of config.json and
hf_quant_config.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from workers.engine.sections import mismatch, section

GROUP_SIZE = 16


class Format(StrEnum):
    """How the weight of a linear layer lies on disk."""

    DENSE = "dense"
    FP8 = "FP8"
    NVFP4 = "NVFP4"


@dataclass(frozen=True, slots=True)
class QuantConfig:
    """
    Attributes:
        algo: `FP8`, `NVFP4`, `MIXED_PRECISION`, or None where nothing is quantised.
        layers: format by module name, where the record lists modules one by one.
        ignored: module names, with wildcards, that are not quantised.
        kv_fp8: whether the KV cache is meant to be E4M3.
    """

    algo: str | None = None
    layers: Mapping[str, Format] = field(default_factory=lambda: MappingProxyType({}))
    ignored: tuple[str, ...] = ()
    kv_fp8: bool = False

    @classmethod
    def from_config(cls, raw: dict[str, Any]) -> "QuantConfig":
        """From `quantization_config` of config.json."""
        at = "/quantization_config"
        if raw.get("quant_method") != "modelopt":
            raise mismatch(f"{at}/quant_method", '"modelopt"', raw.get("quant_method"))
        scheme = raw.get("kv_cache_scheme")
        return cls(
            algo=_algo(raw, at),
            layers=_layers(raw, at),
            ignored=_names(raw, "ignore", at),
            kv_fp8=_kv_is_fp8(scheme, f"{at}/kv_cache_scheme"),
        )

    @classmethod
    def from_hf(cls, raw: dict[str, Any]) -> "QuantConfig":
        """From hf_quant_config.json."""
        at, inner = "/quantization", section(raw, "quantization")
        kv = inner.get("kv_cache_quant_algo")
        if kv not in (None, "FP8"):
            raise mismatch(f"{at}/kv_cache_quant_algo", '"FP8" or null', kv)
        return cls(_algo(inner, at), _layers(inner, at), _names(inner, "exclude_modules", at), kv_fp8=kv == "FP8")


def _algo(raw: dict[str, Any], at: str) -> str:
    algo = raw.get("quant_algo")
    if algo not in ("FP8", "NVFP4", "MIXED_PRECISION"):
        raise mismatch(f"{at}/quant_algo", "FP8, NVFP4 or MIXED_PRECISION", algo)
    return algo


def _layers(raw: dict[str, Any], at: str) -> Mapping[str, Format]:
    if raw.get("quantized_layers") is None:
        return MappingProxyType({})
    named = section(raw, "quantized_layers", at)
    return MappingProxyType({name: _format(value, f"{at}/quantized_layers/{name}") for name, value in named.items()})


def _format(value: Any, at: str) -> Format:
    # The value's shape is not published: a dict in ModelOpt's code, so a bare name is taken as well.
    algo = value.get("quant_algo") if isinstance(value, dict) else value
    if algo not in (Format.FP8, Format.NVFP4):
        raise mismatch(at, "FP8 or NVFP4", algo)
    group = value.get("group_size", GROUP_SIZE) if isinstance(value, dict) else GROUP_SIZE
    if algo == Format.NVFP4 and group != GROUP_SIZE:
        raise mismatch(f"{at}/group_size", str(GROUP_SIZE), group)
    return Format(algo)


def _names(raw: dict[str, Any], key: str, at: str) -> tuple[str, ...]:
    names = raw.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise mismatch(f"{at}/{key}", "a list of names", names)
    return tuple(names)


def _kv_is_fp8(scheme: Any, at: str) -> bool:
    if scheme is None:
        return False
    if not isinstance(scheme, dict) or (scheme.get("num_bits"), scheme.get("type")) != (8, "float"):
        raise mismatch(at, "8 bits of type float, or null", scheme)
    return True
