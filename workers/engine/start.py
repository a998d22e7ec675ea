"""From a checkpoint directory to an engine that runs: load, size the pools, allocate, start the thread."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from workers.engine.checkpoint.reader import Checkpoint
from workers.engine.checkpoint.weights import Weights
from workers.engine.compose import Composer
from workers.engine.config import OmniConfig
from workers.engine.embeddings import Look
from workers.engine.engine import Engine
from workers.engine.loop import Loop
from workers.engine.memory.reservation import Memory
from workers.engine.memory.sizes import MOST_SLOTS, memory_for
from workers.engine.memory.state import State
from workers.engine.memory.workspace import workspace_bytes
from workers.engine.model.omni import OmniModel
from workers.engine.output import Outputs
from workers.engine.prefetch import Prefetch
from workers.engine.runner import Runner, limits_of
from workers.engine.sampling import STOP_IDS
from workers.engine.scheduler import Budgets, Scheduler
from workers.engine.sections import ConfigError, mismatch
from workers.engine.tokenizer import EOS, IM_END, IMAGE, SOUND, Tokenizer

CPU_BYTES = 2 << 30  # of states on a machine without a GPU
GRAPH_BYTES = 1 << 30  # graphs of decoding steps, and what the allocator cannot use
CPU, GPU = Budgets(tokens=512, window=1), Budgets(tokens=2048, window=16)


@dataclass(frozen=True, slots=True)
class Running:
    """An engine with what belongs to it.

    Attributes:
        digest: of the weights.
        prefetch: takes conversations; `loop` takes prompts of ids.
    """

    config: OmniConfig
    tokenizer: Tokenizer
    digest: str
    loop: Loop
    prefetch: Prefetch

    def close(self, *, drain: bool = False, timeout_s: float | None = None) -> bool:
        """As `Loop.close`; what was not composed is dropped."""
        self.prefetch.close()
        return self.loop.close(drain=drain, timeout_s=timeout_s)


def start(
    path: Path,
    *,
    device: str = "cpu",
    state_bytes: int | None = None,
    budgets: Budgets | None = None,
    entering: Callable[[list[str]], None] = lambda ids: None,
) -> Running:
    """
    Args:
        state_bytes: for states, KV and embeddings; None takes what the weights leave on the device.
        entering: see `Engine`.

    Raises:
        CheckpointError: the directory does not hold the model.
        ConfigError: its configuration cannot be meant, or its tokenizer is that of another model.
        ValueError: no sequence fits beside the weights.
    """
    checkpoint, tokenizer = Checkpoint.open(path), Tokenizer.load(path)
    config = checkpoint.config
    _check_ids(config, tokenizer)
    model = OmniModel.load(Weights(checkpoint, device))
    budgets = budgets or (GPU if on_card(device) else CPU)
    budgets = replace(budgets, context=min(budgets.context, config.text.max_position_embeddings))
    most_slots = min(MOST_SLOTS, budgets.tokens)
    if state_bytes is None:
        state_bytes = free_on_card(model, config, budgets, most_slots, device) if on_card(device) else CPU_BYTES
    memory = memory_for(
        config.text,
        state_bytes,
        window=budgets.window,
        dtype=getattr(torch, config.torch_dtype),
        kv_dtype=_kv_dtype(config),
        most_slots=most_slots,
    )
    loop = Loop(build(config, model, tokenizer, memory, budgets, device=device, entering=entering))
    composer = Composer(config, tokenizer, budgets.context, pin=device.startswith("cuda"))
    return Running(config, tokenizer, checkpoint.digest, loop, Prefetch(composer, loop))


def build(
    config: OmniConfig,
    model: OmniModel,
    tokenizer: Tokenizer,
    memory: Memory,
    budgets: Budgets,
    *,
    device: str = "cpu",
    entering: Callable[[list[str]], None] = lambda ids: None,
) -> Engine:
    """An engine of a loaded model, with its tensors."""
    state = State.allocate(
        config.text,
        limits_of(memory, budgets),
        dtype=getattr(torch, config.torch_dtype),
        kv_dtype=_kv_dtype(config),
        device=device,
    )
    runner = Runner(model, state, memory, budgets, vocab_size=config.text.vocab_size, look=Look.of(config))
    if on_card(device):
        runner.capture()
    return Engine(
        runner,
        Scheduler(memory, budgets),
        Outputs(tokenizer, config.text.vocab_size),
        placeholders=(config.img_context_token_id, config.sound_context_token_id),
        entering=entering,
    )


def _check_ids(config: OmniConfig, tokenizer: Tokenizer) -> None:
    """Who means an id by its number means the same token as who means it by its name."""
    media = {IMAGE: config.img_context_token_id, SOUND: config.sound_context_token_id}
    for name, id in (media | dict(zip((EOS, IM_END), STOP_IDS, strict=True))).items():
        if tokenizer.control(name) != id:
            raise ConfigError(f"tokenizer.json: expected {name} to be {id}, got {tokenizer.control(name)}")
    if tokenizer.vocab_size > (limit := config.text.vocab_size):
        raise ConfigError(f"tokenizer.json: expected ids below vocab_size = {limit}, got {tokenizer.vocab_size - 1}")
    if not set(config.generation.eos_token_id) <= set(STOP_IDS):
        expected = f"some of {', '.join(map(str, STOP_IDS))}"
        raise mismatch("/eos_token_id", expected, config.generation.eos_token_id)


def _kv_dtype(config: OmniConfig) -> torch.dtype | None:
    return torch.float8_e4m3fn if config.quant.kv_fp8 else None


def on_card(device: str) -> bool:
    return device.startswith("cuda")


def free_on_card(
    model: Any, config: OmniConfig, budgets: Budgets, slots: int, device: str = "cuda", *, encoders: bool = True
) -> int:
    """Bytes for states: what weights, the largest step and the graphs leave."""
    workspace = workspace_bytes(model, config, budgets, slots, device, encoders=encoders)
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0] - workspace - GRAPH_BYTES
