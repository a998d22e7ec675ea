"""Loaded when asked for, given up when idle."""

import threading
from pathlib import Path
from typing import Any

import pytest

from omni_jobs.errors import TooMany, Unavailable
from tests.workers.engine.tiny import make_ask
from tests.workers.serving.conftest import waits_until
from workers.engine.scheduler import Budgets
from workers.engine.start import Running, start
from workers.serving.resident import Resident

SOON_S = 60.0


@pytest.fixture
def load(checkpoint: Path) -> Any:
    return lambda: start(checkpoint, state_bytes=40_000_000, budgets=Budgets(tokens=64, context=1024))


def test_weights_are_given_up_and_come_back(load: Any) -> None:
    resident = Resident(load, idle_s=0.3)
    assert not resident.condition().loaded
    answers = []
    for _ in range(2):
        running: Running = resident.take()
        answers.append(running.prefetch.submit(make_ask("a", "Say it.")).result(SOON_S).ids)
        loop = running.loop
        assert resident.condition().loaded and resident.condition().users == 1
        del running
        resident.give_back()
        assert waits_until(lambda: not resident.condition().loaded)
        assert waits_until(lambda loop=loop: loop.close(timeout_s=0))
    assert resident.loads == 2 and answers[0] == answers[1]
    resident.close()


def test_who_uses_it_keeps_it(load: Any) -> None:
    resident = Resident(load, idle_s=0.1)
    resident.take()
    resident.take()
    resident.give_back()
    threading.Event().wait(0.4)
    assert resident.condition().loaded
    resident.give_back()
    assert waits_until(lambda: not resident.condition().loaded)


def test_no_more_than_so_many_and_none_at_the_end(load: Any) -> None:
    resident = Resident(load, most=1)
    resident.take()
    with pytest.raises(TooMany):
        resident.take()
    resident.give_back()
    resident.take()
    resident.close()
    with pytest.raises(Unavailable, match="closing"):
        resident.take()


def test_a_model_that_cannot_be_loaded_says_so() -> None:
    def broken() -> Running:
        raise ValueError("no such weights")

    resident = Resident(broken, most=1)
    for _ in range(2):
        with pytest.raises(Unavailable, match="no such weights"):
            resident.take()
