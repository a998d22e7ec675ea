"""Weights that nobody trained: every tensor drawn by its name, so that tests and parity runs have something to read.

The same seed, name and device give the same numbers, whatever was drawn before. Nothing stays at its neutral value:
norms, biases, statistics and router biases are drawn too, for a mistake in them would not show otherwise. Scales
keep the activations near one, so that errors are those of the arithmetic.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from workers.engine.checkpoint import configs
from workers.engine.checkpoint.expected import Expected, linear_modules, recipe, table
from workers.engine.checkpoint.formats import E2M1_MAX, E4M3_MAX, fp8_scale, quantise_fp8, quantise_nvfp4
from workers.engine.checkpoint.reader import TORCH_DTYPES
from workers.engine.config import OmniConfig
from workers.engine.quant import Format

Draw = Callable[[Tensor, torch.Generator], Tensor]


def _normal(mean: float, std: float) -> Draw:
    return lambda empty, generator: empty.normal_(mean, std, generator=generator)


def _uniform(low: float, high: float) -> Draw:
    return lambda empty, generator: empty.uniform_(low, high, generator=generator)


def _log_uniform(low: float, high: float) -> Draw:
    return lambda empty, generator: empty.uniform_(math.log(low), math.log(high), generator=generator)


def _step_bias(empty: Tensor, generator: torch.Generator) -> Tensor:
    """The bias under a softplus that gives steps of 0.001 to 0.1, as the model's training begins."""
    step = _log_uniform(0.001, 0.1)(empty, generator).exp()
    return step + torch.log(-torch.expm1(-step))


def _fan_in(empty: Tensor, generator: torch.Generator) -> Tensor:
    return empty.normal_(0.0, prod(empty.shape[1:]) ** -0.5, generator=generator)


# The first pattern that the end of a name fits; all others are matrices.
DRAWS: tuple[tuple[str, Draw], ...] = (
    (r"\.A_log", _log_uniform(1.0, 16.0)),
    (r"\.dt_bias", _step_bias),
    (r"\.D", _normal(1.0, 0.3)),
    (r"\.running_var|_std", _uniform(0.5, 1.5)),
    (r"\.running_mean|_mean|bias|bias_[uv]", _normal(0.0, 0.1)),
    (r"norm\w*\.weight|mlp1\.0\.weight", _uniform(0.5, 1.5)),
    (r"embeddings\.weight", _normal(0.0, 1.0)),
    (r"pos_embed|cls_token\.token", _normal(0.0, 0.5)),
    (r"[kv]_scale", _uniform(0.5, 2.0)),
)
# The largest activation that calibration would have seen in front of a layer.
LARGEST_INPUT = {"down_proj": (12.0, 24.0)}
OTHER_LARGEST_INPUT = (4.0, 8.0)
BATCHES_TRACKED = 1000
KV_SCALES = ("k_scale", "v_scale")


class Drawn:
    """A `Source` without files.

    Args:
        raw: what config.json holds, such as `configs.tiny()`.
        algo: None for a repository that is not quantised, `FP8` or `NVFP4` for NVIDIA's recipe of that name.
        device: where tensors are drawn and stay.
        kv_scales: whether there are scales for an E4M3 KV cache, which the published repositories do without.
    """

    def __init__(
        self,
        raw: dict[str, Any],
        algo: str | None = None,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        kv_scales: bool = False,
    ) -> None:
        config = OmniConfig.from_dict(raw)
        formats = {module: recipe(algo)(module) for module in linear_modules(config)}
        self.raw = raw if algo is None else {**raw, "quantization_config": configs.quantization_config(algo, formats)}
        self.config = OmniConfig.from_dict(self.raw)
        self.formats: Mapping[str, Format] = formats
        expected = table(config, formats.__getitem__).values()
        self.expected = {one.name: one for one in expected if kv_scales or one.ignored or not one.optional}
        self._seed, self._device = seed, torch.device(device)

    @property
    def names(self) -> Sequence[str]:
        return tuple(self.expected)

    def shape(self, name: str) -> tuple[int, ...]:
        """As the table says; of what nothing reads, as spec 7 guesses."""
        if name.endswith(("norm_mean", "norm_std")):
            return (3, 1, 1)
        if name.endswith("featurizer.fb"):
            return (1, self.config.sound.num_mel_bins, 257)
        return (400,) if name.endswith("featurizer.window") else self.expected[name].shape

    def tensor(self, name: str) -> Tensor:
        one = self.expected[name]
        module, kind = one.module, name.rpartition(".")[2]
        if kind == "num_batches_tracked":
            return torch.tensor(BATCHES_TRACKED, device=self._device)
        format = self.formats.get(module, Format.DENSE)
        if format is Format.DENSE or kind in KV_SCALES:
            return self._draw(name, self.shape(name)).to(TORCH_DTYPES[one.dtype])
        return self._input_scale(name, module, format) if kind == "input_scale" else self._quantised(module, kind)

    def release(self, name: str) -> None:
        """Nothing is kept."""

    def whole(self, module: str) -> Tensor:
        """[out, in] f32: a linear layer of the text before it is quantised."""
        one: Expected = self.expected[f"{module}.weight"]
        out, width = one.shape
        return self._draw(one.name, (out, 2 * width if one.dtype == "U8" else width))

    def _quantised(self, module: str, kind: str) -> Tensor:
        whole = self.whole(module)
        if self.formats[module] is Format.FP8:
            scale = fp8_scale(whole)
            return scale if kind == "weight_scale" else quantise_fp8(whole, scale)
        return quantise_nvfp4(whole)[("weight", "weight_scale", "weight_scale_2").index(kind)]

    def _input_scale(self, name: str, module: str, format: Format) -> Tensor:
        bounds = LARGEST_INPUT.get(module.rpartition(".")[2], OTHER_LARGEST_INPUT)
        largest = _uniform(*bounds)(torch.empty((), device=self._device), self._generator(name))
        return largest / (E4M3_MAX * E2M1_MAX if format is Format.NVFP4 else E4M3_MAX)

    def _draw(self, name: str, shape: tuple[int, ...]) -> Tensor:
        draw = next((draw for pattern, draw in DRAWS if re.search(f"({pattern})$", name)), _fan_in)
        return draw(torch.empty(shape, device=self._device), self._generator(name))

    def _generator(self, name: str) -> torch.Generator:
        seed = hashlib.sha256(f"{self._seed} {name}".encode()).digest()[:7]
        return torch.Generator(self._device).manual_seed(int.from_bytes(seed))
