"""The engine on a GPU: no step waits for the device, everybody ends, the pools are clean."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tests.workers.engine.tiny import tiny_requests, tokenizer
from workers.engine import runner
from workers.engine.checkpoint import configs
from workers.engine.checkpoint.drawn import Drawn
from workers.engine.embeddings import Look
from workers.engine.engine import Engine
from workers.engine.memory.reservation import Memory
from workers.engine.memory.state import State
from workers.engine.model.omni import OmniModel
from workers.engine.output import Outputs
from workers.engine.plan import Pass
from workers.engine.request import Request, Result
from workers.engine.runner import Draw, Handle, limits_of
from workers.engine.scheduler import Budgets, Scheduler

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


class Impatient(runner.Runner):
    """An operation that waits raises."""

    def encode(self, handle: Handle, one: Pass) -> None:
        self._strictly(super().encode, handle, one)

    def launch(self, handle: Handle) -> None:
        self._strictly(super().launch, handle)

    def sample(self, handle: Handle, draws: Sequence[Draw], *, logprobs: bool = False) -> None:
        self._strictly(super().sample, handle, draws, logprobs=logprobs)

    def _strictly(self, run, *args: object, **kwargs: object) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        try:
            run(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def answers(asked: Sequence[Request], device: str, kind: type[runner.Runner] = runner.Runner) -> dict[str, Result]:
    memory, budgets = Memory(blocks=400, block_size=4, slots=8, pages=99, page_size=2), Budgets(48, 10**8, 240, 3)
    drawn = Drawn(configs.tiny())
    model = OmniModel.from_tensors(drawn.config, drawn.tensor, device=device)
    state = State.allocate(drawn.config.text, limits_of(memory, budgets), dtype=torch.float32, device=device)
    engine = Engine(
        kind(model, state, memory, budgets, vocab_size=1280, look=Look.of(drawn.config)),
        Scheduler(memory, budgets),
        Outputs(tokenizer(), 1280),
    )
    for request in asked:
        engine.add(engine.prepare(request))
    results: dict[str, Result] = {}
    while not engine.idle:
        results |= {event.id: event for event in engine.step() if isinstance(event, Result)}
    memory.check()
    assert not engine.failed
    return results


def test_no_step_waits_for_the_device_and_everybody_ends() -> None:
    asked = [replace(one, id=f"{one.id} {copy}") for copy in range(4) for one in tiny_requests()]
    results = answers(asked, "cuda", Impatient)
    assert {id: one.error for id, one in results.items()} == dict.fromkeys([one.id for one in asked])


def test_in_fp32_it_answers_as_on_the_cpu() -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    here, there = answers(tiny_requests(), "cpu"), answers(tiny_requests(), "cuda")
    same = [here[id].ids == there[id].ids for id in here]
    # Sums in another order may tip the scales once; a fault tips all.
    assert sum(same) >= len(same) - 1
