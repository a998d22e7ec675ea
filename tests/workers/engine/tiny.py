"""The real model with few weights, and requests of every medium for it."""

from functools import cache
from typing import Any

import torch

from tests.workers.engine.make import Rig, outputs
from workers.engine.checkpoint import configs
from workers.engine.checkpoint.drawn import Drawn
from workers.engine.compose import Ask, Composer
from workers.engine.config import OmniConfig
from workers.engine.embeddings import Look
from workers.engine.engine import Engine
from workers.engine.media import Decoded, Image, Sound, Video
from workers.engine.memory.reservation import Memory
from workers.engine.memory.state import State
from workers.engine.messages import Medium, Message, Role
from workers.engine.model.omni import OmniModel
from workers.engine.request import MediaKind, Request
from workers.engine.runner import Runner, limits_of
from workers.engine.sampling import SamplingParams
from workers.engine.scheduler import Budgets, Scheduler
from workers.engine.tekken import tokenizer_json
from workers.engine.template import ChatOptions
from workers.engine.tokenizer import Tokenizer

KINDS = {Image: MediaKind.IMAGE, Video: MediaKind.VIDEO, Sound: MediaKind.SOUND}


@cache
def tiny_model() -> OmniModel:
    drawn = Drawn(configs.tiny())
    return OmniModel.from_tensors(drawn.config, drawn.tensor)


def tiny_config() -> OmniConfig:
    return tiny_model().config


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(tokenizer_json())


class Guarded(OmniModel):
    """Loses a step when told to, in the middle of it as it were: states are written, no logits come."""

    faults: dict[str, list[Exception]]

    def forward(self, *args: Any) -> torch.Tensor:
        logits = super().forward(*args)
        if self.faults.get("after"):
            raise self.faults["after"].pop()
        return logits


def guarded() -> Guarded:
    model = object.__new__(Guarded)
    for name in OmniModel.__slots__:
        object.__setattr__(model, name, getattr(tiny_model(), name))
    object.__setattr__(model, "faults", {})
    return model


def make_tiny_rig(
    *,
    blocks: int = 64,
    slots: int = 4,
    pages: int = 48,
    patience: int = 32,
    runner: type[Runner] = Runner,
    **budgets: int,
) -> Rig:
    """As `make_rig`, over the real model; everything that no step has written is NaN."""
    memory = Memory(blocks=blocks, block_size=4, slots=slots, pages=pages, page_size=2)
    limits = Budgets(**{"tokens": 16, "encoder_flop": 10**8, "context": 240, **budgets})
    config, model = tiny_config(), guarded()
    state = State.allocate(config.text, limits_of(memory, limits), dtype=torch.float32)
    layers = [one for layer in state.mamba for one in (layer.ssm_state, layer.window_xb, layer.window_dt)]
    for tensor in (*layers, *(layer.conv_ring for layer in state.mamba), *state.kv, state.media):
        tensor.fill_(torch.nan)
    now, entered = [0.0], []
    engine = Engine(
        runner(model, state, memory, limits, vocab_size=config.text.vocab_size, look=Look.of(config)),
        Scheduler(memory, limits, patience),
        outputs(),
        placeholders=(config.img_context_token_id, config.sound_context_token_id),
        entering=entered.append,
        clock=lambda: now[0],
    )
    return Rig(engine, memory, model, now, entered)


def make_ask(id: str, text: str, *media: Decoded, thinking: bool = False, **sampling: Any) -> Ask:
    """One user message with media in front of its text."""
    shown = tuple(Medium(KINDS[type(one)], "") for one in media)
    params = SamplingParams(**{"max_tokens": 8, "temperature": 0.0, "stop_ids": (), **sampling})
    return Ask(
        id=id,
        messages=[Message(Role.USER, text, shown)],
        media=[lambda one=one: one for one in media],
        sampling=params,
        options=ChatOptions(enable_thinking=thinking),
        pruning_rate=0.5,
    )


@cache
def tiny_requests() -> tuple[Request, ...]:
    """Text, picture, film with sound, recording; greedy and drawn, with a schema and with a budget of thought."""
    noise = torch.Generator().manual_seed(1)
    picture = Image(torch.randint(0, 256, (3, 23, 17), generator=noise, dtype=torch.uint8))
    recording = Sound(torch.rand(8000, generator=noise) - 0.5)
    frames = torch.randint(0, 256, (5, 3, 16, 24), generator=noise, dtype=torch.uint8)
    film = Video(frames, [at / 2 for at in range(5)], Sound(torch.rand(3000, generator=noise) - 0.5))
    asks = [
        make_ask("text", "Say it."),
        make_ask("drawn", "Say it.", temperature=1.0, seed=5),
        make_ask("picture", "See?", picture, temperature=0.7, top_p=0.9, seed=6),
        make_ask("recording", "Hear?", recording),
        make_ask("film", "Watch.", film),
        make_ask("schema", "Count.", json_schema={"enum": ["one", "two"]}, temperature=1.0, top_k=40),
        make_ask("thought", "Think.", thinking=True, thinking_budget=3, temperature=1.0),
    ]
    composer = Composer(tiny_config(), tokenizer(), 240)
    return tuple(composer.compose(ask) for ask in asks)


@cache
def alone(at: int) -> tuple[int, ...]:
    """What a request gets in an engine of its own that prefills it in one piece."""
    request = tiny_requests()[at]
    result = make_tiny_rig(tokens=256, encoder_flop=10**12, slots=1).run(request)[request.id]
    assert result.error is None
    return result.ids
