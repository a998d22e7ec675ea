"""Requests, and engines of a fake model, for tests of the engine."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from tests.workers.engine.fake import VOCAB, FakeModel, FakeState, fake_row, naive
from workers.engine.embeddings import Frames, Look, Picture
from workers.engine.engine import Engine, Event
from workers.engine.features.evs import choose
from workers.engine.features.grids import Grid
from workers.engine.features.mel import Mel
from workers.engine.kernels.sample import sample
from workers.engine.memory.reservation import Memory
from workers.engine.output import Outputs
from workers.engine.request import Delta, FinishReason, Media, MediaKind, Part, Pruning, Request, Result
from workers.engine.runner import Runner, limits_of
from workers.engine.sampling import SamplingParams
from workers.engine.scheduler import Budgets, Scheduler
from workers.engine.tekken import tokenizer_json
from workers.engine.tokenizer import Tokenizer

IMAGE, SOUND = 18, 27
START_IMAGE, END_IMAGE = 21, 22
LOOK = Look(patch_px=1, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))


@cache
def outputs() -> Outputs:
    return Outputs(Tokenizer(tokenizer_json()), VOCAB)


def make_request(
    id: str = "r", prompt: int = 5, max_tokens: int = 4, images: tuple[int, ...] = (), **sampling: Any
) -> Request:
    """A prompt of `prompt` text tokens; each image, of so many rows, stands behind the first of them."""
    params = SamplingParams(**{"max_tokens": max_tokens, "stop_ids": (), "temperature": 0.0, **sampling})
    media = tuple(make_image(rows) for rows in images)
    text = [1000 + at for at in range(prompt)]
    return Request(id, (*text[:1], *[IMAGE] * sum(images), *text[1:]), params, media)


def make_image(*rows: int, flop: int = 10, first: int = 0) -> Media:
    """An image whose encoder runs once for each number of rows, with values from `first` on."""
    parts = []
    for count in rows:
        pixels = torch.arange(first, first + 12 * count).remainder(256).to(torch.uint8).view(3, 2, 2 * count)
        parts.append(Part(Picture(pixels, Grid(2, 2 * count)), count, flop))
        first += 12 * count
    return Media(MediaKind.IMAGE, IMAGE, tuple(parts), sum(rows))


def make_sound(rows: int, flop: int = 3) -> Media:
    frames = torch.arange(8 * rows, dtype=torch.float32)[None, :, None]
    return Media(MediaKind.SOUND, SOUND, (Part(Mel(frames, (8 * rows,), torch.tensor([8 * rows])), rows, flop),), rows)


def make_video(
    start: int, tubelets: int, rows: int, rate: float, flop: int = 7, seed: int = 0
) -> tuple[Media, list[int]]:
    """A video of which some rows stay, a pass for each tubelet; and its ids before anybody knows which."""
    noise = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(tubelets):
        pixels = torch.randint(0, 256, (2, 3, 2, 2 * rows), generator=noise, dtype=torch.uint8)
        parts.append(Part(Frames(pixels, Grid(2, 2 * rows)), rows, flop))
    keep = max(rows, int(tubelets * rows * (1 - rate)))
    pruning = Pruning(rate, start, tuple((1100 + at, START_IMAGE) for at in range(tubelets)), (END_IMAGE,))
    media = Media(MediaKind.VIDEO, IMAGE, tuple(parts), keep, pruning)
    return media, pruning.layout([keep] + [0] * (tubelets - 1), IMAGE)


@dataclass
class Rig:
    """An engine over the fake model.

    Attributes:
        entered: what the engine said before each step.
        events: everything it told.
    """

    engine: Engine
    memory: Memory
    model: FakeModel
    now: list[float]
    entered: list[list[str]]
    events: list[Event] = field(default_factory=list)

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.engine.add(self.engine.prepare(request))

    def step(self) -> list[Event]:
        told = self.engine.step()
        if not self.engine.failed:
            self.engine.check()
        self.events += told
        return told

    def run(self, *requests: Request) -> dict[str, Result]:
        """To the end of everything; the pools are clean then."""
        self.add(*requests)
        for _ in range(5000):
            if self.engine.idle:
                self.memory.check()
                return self.results()
            self.step()
        raise AssertionError("it never ended")

    def results(self) -> dict[str, Result]:
        return {event.id: event for event in self.events if isinstance(event, Result)}

    def shown(self, id: str) -> list[str]:
        return [piece for event in self.events if isinstance(event, Delta) and event.id == id for piece in event.pieces]


def make_rig(
    *, blocks: int = 64, slots: int = 4, pages: int = 32, patience: int = 32,
    runner: Callable[..., Runner] = Runner, **budgets: int,
) -> Rig:  # fmt: skip
    memory = Memory(blocks=blocks, block_size=4, slots=slots, pages=pages, page_size=2)
    limits = Budgets(**{"tokens": 16, "encoder_flop": 20, "context": 200, **budgets})
    model, now, entered = FakeModel(memory.block_size), [0.0], []
    state: Any = FakeState.allocate(limits_of(memory, limits))
    engine = Engine(
        runner(model, state, memory, limits, vocab_size=VOCAB, look=LOOK),
        Scheduler(memory, limits, patience),
        outputs(),
        placeholders=(IMAGE, SOUND),
        entering=entered.append,
        clock=lambda: now[0],
    )
    return Rig(engine, memory, model, now, entered)


def expected(request: Request) -> tuple[tuple[int, ...], FinishReason]:
    """What the fake model answers, token by token, with no engine at all."""
    values, params, output = prompt_values(request), request.sampling, outputs().begin(request)
    ids: list[int] = []
    while len(ids) < params.max_tokens:
        ids.append(draw(naive(values + ids), params, len(values) + len(ids), output))
        if output.push(ids[-1]).ended:
            return tuple(ids), FinishReason.STOP
    return tuple(ids), FinishReason.LENGTH


def draw(logits: torch.Tensor, params: SamplingParams, position: int, output: Any) -> int:
    masks = torch.full((1, VOCAB // 32), -1, dtype=torch.int32)
    if output.constraint is not None:
        output.constraint.fill(masks, 0)
    row: dict[str, Any] = {
        "temperature": torch.tensor([params.temperature]), "top_p": torch.tensor([params.top_p]),
        "top_k": torch.tensor([params.top_k], dtype=torch.int32), "seed": torch.tensor([params.seed_bits]),
        "position": torch.tensor([position]), "forced_id": torch.tensor([output.forced_id]),
        "mask_row": torch.tensor([0], dtype=torch.int32), "masks": masks,
    }  # fmt: skip
    return int(sample(logits[None], **row)[0])


def prompt_values(request: Request) -> list[int]:
    """What stands at each position: an id, or the value of an embedding row."""
    ids, rows = list(request.prompt_ids), []
    for item in request.media:
        own, counts = item_rows(item)
        if item.pruning is not None:
            laid = item.pruning.layout(counts, item.placeholder)
            ids[item.pruning.start : item.pruning.start + len(laid)] = laid
        rows += own
    return [5000 + int(rows.pop(0)) if id in (IMAGE, SOUND) and rows else id for id in ids]


def item_rows(item: Media) -> tuple[list[float], list[int]]:
    if item.kind is MediaKind.SOUND:
        return (item.parts[0].features.frames[0, ::8, 0] + 2).tolist(), []
    every = torch.cat([row_values(part) for part in item.parts])
    if item.pruning is None:
        return every.tolist(), []
    kept = choose(every[:, None].unflatten(0, (len(item.parts), -1)), item.pruning.rate)
    return every[kept.index].tolist(), kept.counts.tolist()


def row_values(part: Part) -> torch.Tensor:
    """What the fake tower makes of pixels: the first channel of every fourth patch."""
    pixels = part.features.pixels
    red = pixels[0] if pixels.ndim == 3 else pixels[0, 0]
    return fake_row(red.flatten()[::4] / 255.0 - 0.5)
