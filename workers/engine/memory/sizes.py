"""How many blocks, slots and pages fit into the memory that the weights leave.

A sequence costs a slot whatever its length, and KV for its positions. Slots and blocks are therefore cut for an
expected length: with longer sequences blocks run out first, with shorter ones slots.
"""

from dataclasses import dataclass

import torch

from workers.engine.config import TextConfig
from workers.engine.memory.reservation import Memory
from workers.engine.memory.state import Limits, State

POSITIONS = 4096  # of a usual sequence: five minutes of sound, a page and its answer
MOST_SLOTS = 512
# The embedding pool: four clips of 256 frames before anything is dropped, or 40 pages.
ROWS = 131_072
ROWS_SHARE = 0.1  # of the memory, where that is less


@dataclass(frozen=True, slots=True)
class Costs:
    """Bytes of one slot, one KV block and one embedding page, as `State` allocates them."""

    slot: int
    block: int
    page: int

    @classmethod
    def measure(
        cls,
        config: TextConfig,
        *,
        window: int,
        block_size: int,
        page_size: int,
        dtype: torch.dtype,
        kv_dtype: torch.dtype | None = None,
    ) -> "Costs":
        def size(slots: int, blocks: int, rows: int) -> int:
            limits = Limits(slots, blocks, block_size, window, rows)
            state = State.allocate(config, limits, dtype=dtype, kv_dtype=kv_dtype, device="meta")
            layers = [(one.ssm_state, one.window_xb, one.window_dt, one.conv_ring) for one in state.mamba]
            tensors = [*(one for layer in layers for one in layer), *state.kv, state.last_token, state.media]
            return sum(one.nbytes for one in tensors)

        one = size(1, 1, page_size)
        return cls(size(2, 1, page_size) - one, size(1, 2, page_size) - one, size(1, 1, 2 * page_size) - one)


def memory_for(
    config: TextConfig,
    free_bytes: int,
    *,
    window: int,
    dtype: torch.dtype,
    kv_dtype: torch.dtype | None = None,
    block_size: int = 256,
    page_size: int = 64,
    positions: int = POSITIONS,
    most_slots: int = MOST_SLOTS,
) -> Memory:
    """Pools whose tensors fit into `free_bytes`, the padding's slot and block included.

    Args:
        window: rows that a slot's states hold before they are written back.
        positions: of a usual sequence.

    Raises:
        ValueError: not even one sequence fits.
    """
    costs = Costs.measure(
        config, window=window, block_size=block_size, page_size=page_size, dtype=dtype, kv_dtype=kv_dtype
    )
    pages = max(1, min(ROWS // page_size, int(free_bytes * ROWS_SHARE) // costs.page))
    sequence = costs.slot + -(-positions // block_size) * costs.block
    room = free_bytes - pages * costs.page - costs.slot - costs.block
    slots = min(most_slots, room // sequence)
    if slots < 1:
        raise ValueError(f"expected {sequence} bytes for a sequence of {positions} positions, got {max(0, room)}")
    blocks = (room - slots * costs.slot) // costs.block
    return Memory(blocks=blocks, block_size=block_size, slots=slots, pages=pages, page_size=page_size)
