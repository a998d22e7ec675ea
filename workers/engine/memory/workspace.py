"""What a step allocates beside weights and states, by running the largest ones on the card and looking at the peak."""

from collections.abc import Callable
from typing import Any

import torch

from workers.engine.batch import Batch, Piece
from workers.engine.config import OmniConfig
from workers.engine.costs import clip_flop
from workers.engine.embeddings import Encoders
from workers.engine.features.grids import Grid
from workers.engine.features.mel import CLIP_SAMPLES, HOP, log_mel
from workers.engine.kernels.sample import sample
from workers.engine.media import PART_FLOP
from workers.engine.memory.state import Limits, State
from workers.engine.scheduler import Budgets

BLOCK = 256
MOST_CLIPS = 32  # 16 minutes of sound in one part; only of a model smaller than the real one more would fit


@torch.no_grad()
def workspace_bytes(
    model: Any, config: OmniConfig, budgets: Budgets, slots: int, device: torch.device | str, *, encoders: bool = True
) -> int:
    """The most that a step of `budgets.tokens` tokens takes while a pass of an encoder runs beside it.

    Args:
        model: as the runner takes it.
        slots: sequences that sample in one step.
        encoders: whether the model has them.
    """
    step = _peak(lambda: _step(model, config, budgets, device), device)
    drawing = _peak(lambda: _draw(config.text.vocab_size, slots, device), device)
    beside = _peak(lambda: _encode(model, config, device), device) if encoders else 0
    return max(step, drawing) + beside


def _peak(run: Callable[[], object], device: torch.device | str) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    run()
    torch.cuda.synchronize(device)
    most = torch.cuda.max_memory_reserved(device) - before
    torch.cuda.empty_cache()
    return most


def _step(model: Any, config: OmniConfig, budgets: Budgets, device: torch.device | str) -> None:
    """One prompt that fills a step."""
    blocks = -(-budgets.tokens // BLOCK)
    limits = Limits(slots=2, blocks=1 + blocks, block=BLOCK, window=budgets.window)
    state = State.allocate(config.text, limits, dtype=getattr(torch, config.torch_dtype), device=device)
    batch = Batch(tokens=budgets.tokens, sequences=2, blocks=blocks, block=BLOCK, device=device)
    prompt = Piece([1] * budgets.tokens, 0, 1, range(1, 1 + blocks))
    model.forward(batch.fill([], [prompt]), state)


def _draw(vocab_size: int, rows: int, device: torch.device | str) -> None:
    def full(value: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((rows,), value, dtype=dtype, device=device)

    logits = torch.zeros(rows, vocab_size, dtype=torch.bfloat16, device=device)
    masks = torch.zeros(0, -(-vocab_size // 32), dtype=torch.int32, device=device)
    sample(
        logits, full(1.0, torch.float32), full(0.9, torch.float32), full(50, torch.int32), full(1, torch.int64),
        full(1, torch.int64), full(-1, torch.int64), full(-1, torch.int32), masks,
    )  # fmt: skip


def _encode(model: Encoders, config: OmniConfig, device: torch.device | str) -> None:
    """The largest picture there is, and as much sound as one part holds."""
    vision, dtype = config.vision, getattr(torch, config.torch_dtype)
    side = int(vision.max_num_patches**0.5) // 2 * 2
    picture = torch.zeros(side * side, vision.patch_dim, dtype=dtype, device=device)
    model.encode_images(picture, [Grid(side, side)])
    del picture
    clips = min(MOST_CLIPS, max(1, PART_FLOP // clip_flop(config, CLIP_SAMPLES // HOP)))
    model.encode_sound(log_mel([torch.zeros(CLIP_SAMPLES)] * clips, config.sound.num_mel_bins).to(device))
