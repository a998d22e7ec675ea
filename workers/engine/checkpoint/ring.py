"""From mapped files to the device through a few pinned buffers: the copy of one overlaps the reading of the next."""

import torch
from torch import Tensor

SLOTS = 4
SLOT_BYTES = 64 << 20


class PinnedRing:
    """A ring of pinned host memory, 256 MB in all; on the CPU, and within one device, a plain copy without it.

    Runs on the current stream. Not for several threads at once.
    """

    def __init__(self, device: torch.device, slots: int = SLOTS, slot_bytes: int = SLOT_BYTES) -> None:
        self._device = device
        self._slots: list[tuple[Tensor, torch.cuda.Event]] = []
        self._next = 0
        if device.type == "cuda":
            buffers = (torch.empty(slot_bytes, dtype=torch.uint8, pin_memory=True) for _ in range(slots))
            self._slots = [(buffer, torch.cuda.Event()) for buffer in buffers]

    def fill(self, target: Tensor, source: Tensor) -> None:
        """Writes `source` into `target`, a contiguous tensor of the same shape; the copy may still be under way.

        Raises:
            ValueError: the shapes differ.
        """
        if target.shape != source.shape:
            raise ValueError(f"expected {list(target.shape)}, got {list(source.shape)}")
        if not self._slots or source.device == target.device:
            target.copy_(source)
        elif source.dtype != target.dtype:
            whole = torch.empty(source.shape, dtype=source.dtype, device=target.device)
            self.fill(whole, source)
            target.copy_(whole)
        else:
            self._stream(target.view(-1).view(torch.uint8), source.reshape(-1).view(torch.uint8))

    def _stream(self, target: Tensor, source: Tensor) -> None:
        at = 0
        while at < len(source):
            buffer, free = self._slots[self._next]
            self._next = (self._next + 1) % len(self._slots)
            # An event that was never recorded is done.
            free.synchronize()
            length = min(len(buffer), len(source) - at)
            buffer[:length].copy_(source[at : at + length])
            target[at : at + length].copy_(buffer[:length], non_blocking=True)
            free.record()
            at += length
