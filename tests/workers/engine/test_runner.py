"""The device's side of a step: nothing in it waits, and what it is told of each row is right."""

from collections.abc import Sequence

import pytest

from tests.workers.engine.make import expected, make_request, make_rig
from tests.workers.engine.no_sync import NoSync, Synced
from tests.workers.engine.tiny import make_tiny_rig, tiny_requests
from workers.engine.batch import LAST_SAMPLED, Launch
from workers.engine.plan import Pass
from workers.engine.runner import Draw, Handle, Runner


class Impatient(Runner):
    """Waits for nothing between a step's tensors and its ids."""

    def encode(self, handle: Handle, one: Pass) -> None:
        with NoSync():
            super().encode(handle, one)

    def _forward(self, handle: Handle, launch: Launch) -> None:
        with NoSync():
            super()._forward(handle, launch)

    def sample(self, handle: Handle, draws: Sequence[Draw], *, logprobs: bool = False) -> None:
        with NoSync():
            super().sample(handle, draws, logprobs=logprobs)


def test_no_step_waits_for_the_device_whatever_is_in_it() -> None:
    rig = make_tiny_rig(runner=Impatient, window=3, tokens=256, blocks=200, slots=7)
    results = rig.run(*tiny_requests())
    assert not rig.engine.failed
    assert [one.error for one in results.values()] == [None] * len(results)
    assert rig.engine.stats.passes == 4


def test_a_model_that_waits_is_noticed() -> None:
    rig = make_rig(runner=Impatient)
    rig.run(make_request())
    assert rig.engine.failed.startswith(Synced.__name__)


class Watching(Runner):
    launches: list[dict[str, list]]

    def _forward(self, handle: Handle, launch: Launch) -> None:
        names = ("token_ids", "positions", "state_slot", "window_len", "flush", "has_initial_state", "sample_row")
        self.launches.append({name: getattr(launch, name).tolist() for name in names})
        super()._forward(handle, launch)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, list]]:
    seen: list[dict[str, list]] = []
    monkeypatch.setattr(Watching, "launches", seen, raising=False)
    return seen


def test_decoding_rows_stand_first_and_take_their_token_from_the_device(launches: list[dict[str, list]]) -> None:
    rig = make_rig(runner=Watching, tokens=8, window=2)
    rig.add(make_request("a", prompt=3, max_tokens=9))
    rig.step()
    rig.step()
    rig.add(make_request("b", prompt=9))
    rig.step()
    rig.step()
    assert launches[2] == {
        "token_ids": [LAST_SAMPLED, *range(1000, 1007)],
        "positions": [4, *range(7)],
        "state_slot": [1, 2],
        "window_len": [1, 0],
        "flush": [True, True],
        "has_initial_state": [True, False],
        "sample_row": [0],
    }
    assert launches[3]["token_ids"] == [LAST_SAMPLED, 1007, 1008]
    assert launches[3]["has_initial_state"] == [True, True]
    assert launches[3]["sample_row"] == [0, 2]
    rig.run()


def test_a_step_is_launched_before_the_ids_of_the_one_before_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("launch", "collect", "sample"):
        run = getattr(Runner, name)

        def noted(self: Runner, handle: Handle, *args: object, name: str = name, run=run, **kwargs: object) -> object:
            calls.append(f"{name} {handle.plan.number}")
            return run(self, handle, *args, **kwargs)

        monkeypatch.setattr(Runner, name, noted)
    make_rig().run(make_request(max_tokens=3))
    assert calls == [
        "launch 0", "sample 0",
        "launch 1", "collect 0", "sample 1",
        "launch 2", "collect 1", "sample 2",
        "collect 2",
    ]  # fmt: skip


def test_sampled_ids_lie_in_the_slot_of_their_sequence() -> None:
    rig = make_rig()
    rig.add(make_request("a", max_tokens=9), make_request("b", prompt=2, max_tokens=9))
    for _ in range(3):
        rig.step()
    state = rig.engine._runner._state
    for id, request in (("a", make_request("a", max_tokens=9)), ("b", make_request("b", prompt=2, max_tokens=9))):
        sequence = rig.engine._live[id].sequence
        assert sequence.held is not None
        assert int(state.last_token[sequence.held.slot]) == expected(request)[0][2]
    rig.run()
