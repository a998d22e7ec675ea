"""The card of this machine, and what fits on it beside weights of some size."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workers.engine.checkpoint.capacity import WINDOW_TOKENS, capacity
from workers.engine.config import OmniConfig

ASSUMED_MEMORY_BYTES = 80 << 30
DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # without one there is no card, and torch need not be loaded


def fits(config: OmniConfig, weights_bytes: int) -> dict[str, Any]:
    """The card, and how many sequences of each kind run on it at once beside such weights."""
    name, memory_bytes = card()
    found = capacity(config, weights_bytes, memory_bytes)
    return {
        "name": name,
        "memory_bytes": memory_bytes,
        "free_bytes": found.free_bytes,
        "fits": found.fits,
        "window_tokens": WINDOW_TOKENS,
        "sequences": found.sequences,
    }


@cache
def card() -> tuple[str | None, int]:
    """The first card and its memory; without one, None and 80 GB."""
    if find_spec("torch") is not None and any(driver.exists() for driver in DRIVERS):
        import torch

        if torch.cuda.is_available():
            found = torch.cuda.get_device_properties(0)
            return found.name, found.total_memory
    return None, ASSUMED_MEMORY_BYTES
