"""A mode in which nothing may wait for the device, for tests on the CPU, where waiting costs nothing and so hides.

It refuses what reads a tensor's numbers on the host, what has a result of unknown size, and what sends numbers of
Python to the device (from memory that is not pinned, so the host waits for what was queued before).
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
REFUSED = {
    aten._local_scalar_dense, aten.item, aten.is_nonzero, aten.equal, aten.nonzero, aten.nonzero_numpy, aten.argwhere,
    aten.masked_select, aten.bincount, aten._unique2, aten.unique_consecutive, aten.unique_dim, aten.lift_fresh,
    aten.lift_fresh_copy,
}  # fmt: skip
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class Synced(AssertionError):
    """An operation would have made the host wait."""


class NoSync(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, kwargs = func.overloadpacket, kwargs or {}
        if packet in REFUSED or (packet is aten.repeat_interleave and "output_size" not in kwargs):
            raise Synced(f"{func} waits for the device")
        if packet in INDEXED and any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]):
            raise Synced(f"{func} by a mask has a size that only the device knows")
        return func(*args, **kwargs)
