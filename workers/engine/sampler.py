"""What the sampler is told of each row, on the host and on the device.

`SamplerRows` is the host's side: one entry a row, written while the forward pass runs, sent before the sampling. Its
memory is pinned and used again in the next step, so a row is written only after the ids of the step before were read.

Runs in the engine's thread.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.kernels.sample import sample as _sample
from workers.engine.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class SamplerInputs:
    """
    Attributes:
        temperature, top_p: [S] f32.
        top_k: [S] int32, 0 is all.
        seed: [S] int64.
        position: [S] int64, place of the token in its sequence, prompt included.
        forced_id: [S] int64, -1 where nothing is forced.
        mask_row: [S] int32, -1 where all is allowed.
        masks: [rows, ceil(vocab / 32)] int32.
        greedy: no row draws, so nothing needs to be sorted.
    """

    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    seed: Tensor
    position: Tensor
    forced_id: Tensor
    mask_row: Tensor
    masks: Tensor
    greedy: bool = False


def sample(logits: Tensor, inputs: SamplerInputs) -> Tensor:
    """Next token of each row.

    Args:
        logits: [S, vocab] of any float dtype.

    Returns:
        [S] int64; it depends on the row alone, not on the batch.

    Raises:
        ValueError: rows of logits and inputs differ, or the masks are of another vocabulary.
    """
    rows, vocab = logits.shape
    words = -(-vocab // 32)
    if inputs.temperature.shape[0] != rows or inputs.masks.shape[1] != words:
        got = f"{inputs.temperature.shape[0]} rows and masks {list(inputs.masks.shape)}"
        raise ValueError(f"expected inputs for {rows} rows and masks [rows, {words}], got {got}")
    return _sample(
        logits, inputs.temperature, inputs.top_p, inputs.top_k, inputs.seed, inputs.position, inputs.forced_id,
        inputs.mask_row, inputs.masks, greedy=inputs.greedy,
    )  # fmt: skip


class SamplerRows:
    """Host memory for up to `rows` rows, and their tensors of fixed address on the device."""

    def __init__(self, rows: int, device: torch.device | str = "cpu") -> None:
        pinned = torch.device(device).type == "cuda"
        # One block a dtype, so that a step sends three copies and not seven.
        self._host = [
            torch.zeros(2, rows, dtype=torch.float32, pin_memory=pinned),
            torch.zeros(2, rows, dtype=torch.int32, pin_memory=pinned),
            torch.zeros(3, rows, dtype=torch.int64, pin_memory=pinned),
        ]
        self._device = [block.to(device, copy=True) for block in self._host]
        self._floats, self._ints, self._longs = (block.numpy() for block in self._host)
        self._greedy = [True] * rows

    def put(self, row: int, params: SamplingParams, position: int, forced_id: int = -1, mask_row: int = -1) -> None:
        """Writes one row. Arguments as in `SamplerInputs`."""
        self._floats[:, row] = params.temperature, params.top_p
        self._ints[:, row] = params.top_k, mask_row
        self._longs[:, row] = params.seed_bits, position, forced_id
        self._greedy[row] = params.greedy or forced_id >= 0

    def send(self, rows: int, masks: Tensor) -> SamplerInputs:
        """The first `rows` rows on the device; the copies are queued on the current stream.

        Args:
            masks: [mask rows, ceil(vocab / 32)] int32 on the device.
        """
        for host, device in zip(self._host, self._device, strict=True):
            # Whole: a part of each row would travel by way of memory that is not pinned, and wait for the device.
            device.copy_(host, non_blocking=True)
        (temperature, top_p), (top_k, mask_row), (seed, position, forced_id) = (
            block[:, :rows].unbind() for block in self._device
        )
        return SamplerInputs(
            temperature, top_p, top_k, seed, position, forced_id, mask_row, masks, greedy=all(self._greedy[:rows])
        )
