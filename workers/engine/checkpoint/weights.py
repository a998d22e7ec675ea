"""What the model asks of a checkpoint: tensors on its device, layers in their format, q/k/v merged, experts stacked.

Nothing is quantised again: what was merged keeps a scale for each of its rows. A stack is allocated once on the device
and filled slice by slice, so there is no second copy of it anywhere.

Source: spec 8; which input scale a routed expert takes is DESIGN's choice, said at `experts`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from omni_jobs.errors import Damaged
from workers.engine.checkpoint.errors import Fault, Problem
from workers.engine.checkpoint.formats import Dense, Fp8, Nvfp4, Weight
from workers.engine.checkpoint.ring import PinnedRing
from workers.engine.checkpoint.swizzle import swizzle
from workers.engine.config import OmniConfig
from workers.engine.quant import Format

E4M3_NAN = 0x7F  # whatever the sign
BLACKWELL = (10, 0)  # the first compute capability with FP4 tensor cores


class Source(Protocol):
    """Where tensors come from by their official name: a `Checkpoint`, or numbers that are `Drawn`."""

    @property
    def config(self) -> OmniConfig: ...
    @property
    def formats(self) -> Mapping[str, Format]: ...
    @property
    def names(self) -> Sequence[str]: ...
    def tensor(self, name: str) -> Tensor: ...
    def release(self, name: str) -> None: ...


class ScaleError(Damaged, ValueError):
    """A scale that is zero, negative or no number, or a block scale that is no number."""


class Weights:
    """Reads a source for one device.

    Args:
        dtype: of what is not quantised, and of what quantised layers answer; None: as the configuration says.
        fp4_cores: whether block scales are put in the order of FP4 tensor cores; None: as the device is.
    """

    def __init__(
        self,
        source: Source,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        fp4_cores: bool | None = None,
    ) -> None:
        self._source = source
        self._names = frozenset(source.names)
        self.device = torch.device(device)
        self.dtype = dtype or getattr(torch, source.config.torch_dtype)
        self._ring = PinnedRing(self.device)
        if fp4_cores is None:
            fp4_cores = self.device.type == "cuda" and torch.cuda.get_device_capability(self.device) >= BLACKWELL
        self._fp4_cores = fp4_cores

    @property
    def config(self) -> OmniConfig:
        return self._source.config

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of the checkpoint's shape, in `dtype` or in that of the model."""
        return self._placed([name], dtype or self.dtype).squeeze(0)

    def linear(self, module: str) -> Weight:
        """The linear layer of that name, with its bias if it has one."""
        return self.merged([module])

    def merged(self, modules: Sequence[str]) -> Weight:
        """Layers that read the same input as one: [sum of out, in], in the order given.

        FP8 keeps the scale of each layer for its rows; the activations take the largest of the input scales.

        Raises:
            ValueError: the layers are in several formats, or in NVFP4 and more than one.
        """
        format = self._one_format(modules)
        names = [f"{module}.weight" for module in modules]
        if format is Format.DENSE:
            bias = [f"{module}.bias" for module in modules if f"{module}.bias" in self._names]
            return Dense(self._rows(names, self.dtype), self._rows(bias, self.dtype) if bias else None)
        inputs = self._scales(modules, "input_scale")
        if format is Format.FP8:
            rows = torch.tensor([len(self._source.tensor(name)) for name in names])
            scales = self._scales(modules, "weight_scale")
            scale = scales if len(modules) == 1 else scales.repeat_interleave(rows)
            return Fp8(self._rows(names), scale.to(self.device), inputs.amax().to(self.device), self.dtype)
        if len(modules) > 1:
            raise ValueError(f"expected layers in BF16 or FP8 to merge, got NVFP4: {', '.join(modules)}")
        return self._nvfp4(modules, inputs.squeeze(0), squeeze=True)

    def experts(self, module: str, projection: str) -> Weight:
        """All routed experts of a layer, stacked: [E, out, in].

        Activations reach every expert's `up_proj` as one tensor, so they take the largest of the layer's input scales
        ([]); what reaches a `down_proj` belongs to its expert alone and takes that expert's ([E]).

        Args:
            module: such as `language_model.backbone.layers.1.mixer.experts`.
            projection: `up_proj` or `down_proj`.
        """
        modules = [f"{module}.{at}.{projection}" for at in range(self.config.text.n_routed_experts)]
        format = self._one_format(modules)
        names = [f"{one}.weight" for one in modules]
        if format is Format.DENSE:
            return Dense(self._placed(names, self.dtype))
        inputs = self._scales(modules, "input_scale")
        inputs = inputs.amax() if projection == "up_proj" else inputs
        if format is Format.NVFP4:
            return self._nvfp4(modules, inputs)
        scale = self._scales(modules, "weight_scale").unsqueeze(-1)
        return Fp8(self._placed(names), scale.to(self.device), inputs.to(self.device), self.dtype)

    def kv_scales(self, module: str) -> tuple[Tensor, Tensor]:
        """Scales of an E4M3 KV cache for K and V, [] f32 each; 1 where the checkpoint has none."""
        found = (f"{module}.k_proj.k_scale", f"{module}.v_proj.v_scale")
        k, v = (self._scale(name) if name in self._names else torch.ones(()) for name in found)
        return k.to(self.device), v.to(self.device)

    def _nvfp4(self, modules: Sequence[str], input_scale: Tensor, *, squeeze: bool = False) -> Nvfp4:
        weight = self._placed([f"{module}.weight" for module in modules])
        block_scale = self._block_scales([f"{module}.weight_scale" for module in modules])
        block_scale = swizzle(block_scale) if self._fp4_cores else block_scale
        scale_2 = self._scales(modules, "weight_scale_2").to(self.device)
        if squeeze:
            weight, block_scale, scale_2 = weight[0], block_scale[0], scale_2[0]
        return Nvfp4(weight, block_scale, scale_2, input_scale.to(self.device), self.dtype, self._fp4_cores)

    def _block_scales(self, names: Sequence[str]) -> Tensor:
        """[len(names), out, in / 16] E4M3 on the device. Waits for it: one NaN would spoil every answer."""
        placed = self._placed(names)
        strange = ((placed.view(torch.uint8) & E4M3_NAN) == E4M3_NAN).flatten(1).any(1)
        if strange.any():
            name = names[int(strange.int().argmax())]
            raise ScaleError(str(Problem(Fault.VALUE, name, "expected block scales that are numbers, got NaN")))
        return placed

    def _placed(self, names: Sequence[str], dtype: torch.dtype | None = None) -> Tensor:
        """[len(names), ...] on the device, a slice a name."""
        first = self._source.tensor(names[0])
        target = torch.empty(len(names), *first.shape, dtype=dtype or first.dtype, device=self.device)
        for slice, name in zip(target, names, strict=True):
            self._fill(slice, name)
        return target

    def _rows(self, names: Sequence[str], dtype: torch.dtype | None = None) -> Tensor:
        """The tensors below each other: [sum of rows, ...] on the device."""
        parts = [self._source.tensor(name) for name in names]
        rows = [len(part) for part in parts]
        target = torch.empty(sum(rows), *parts[0].shape[1:], dtype=dtype or parts[0].dtype, device=self.device)
        for slice, name in zip(target.split(rows), names, strict=True):
            self._fill(slice, name)
        return target

    def _fill(self, target: Tensor, name: str) -> None:
        self._ring.fill(target, self._source.tensor(name))
        self._source.release(name)

    def _scales(self, modules: Sequence[str], scale: str) -> Tensor:
        """[len(modules)] f32 on the host."""
        return torch.stack([self._scale(f"{module}.{scale}") for module in modules])

    def _scale(self, name: str) -> Tensor:
        scale = self._source.tensor(name).reshape(()).float().cpu()
        if not (scale > 0 and scale.isfinite()):
            raise ScaleError(str(Problem(Fault.VALUE, name, f"expected a scale above zero, got {scale.item()}")))
        return scale

    def _one_format(self, modules: Sequence[str]) -> Format:
        formats = {self._source.formats.get(module, Format.DENSE) for module in modules}
        if len(formats) > 1:
            raise ValueError(f"expected one format, got {', '.join(sorted(formats))}: {', '.join(modules[:4])}")
        return formats.pop()
