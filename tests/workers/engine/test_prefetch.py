"""Conversations become requests beside the engine."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from omni_jobs.errors import UsageError
from tests.workers.engine.tiny import alone, make_ask, make_tiny_rig, tiny_config, tokenizer
from workers.engine.compose import Ask, Composer
from workers.engine.errors import EngineClosed
from workers.engine.live import Live
from workers.engine.loop import Loop
from workers.engine.media import Image
from workers.engine.prefetch import Prefetch
from workers.engine.request import FinishReason, Request

SOON_S = 60.0


@pytest.fixture
def prefetch() -> Iterator[Prefetch]:
    rig = make_tiny_rig()
    with Loop(rig.engine) as loop:
        prefetch = Prefetch(Composer(tiny_config(), tokenizer(), 240), loop)
        yield prefetch
        prefetch.close()
    rig.memory.check()


def picture() -> Image:
    return Image(torch.zeros(3, 16, 16, dtype=torch.uint8))


def held(ask: Ask) -> tuple[Ask, threading.Event, threading.Event]:
    """The ask, with media that are loaded only when they may be."""
    begun, may = threading.Event(), threading.Event()

    def load() -> Image:
        begun.set()
        assert may.wait(SOON_S)
        return picture()

    return replace(ask, media=[load]), begun, may


def test_an_ask_is_answered_as_its_request_is(prefetch: Prefetch) -> None:
    heard: list[int] = []
    future = prefetch.submit(make_ask("text", "Say it."), lambda delta: heard.extend(delta.ids))
    assert future.result(SOON_S).ids == alone(0) == tuple(heard)


def test_what_is_wrong_with_an_ask_comes_through_its_future(prefetch: Prefetch) -> None:
    def broken() -> Image:
        raise UsageError("no picture")

    with pytest.raises(UsageError, match="no picture"):
        prefetch.submit(replace(make_ask("a", "x", picture()), media=[broken])).result(SOON_S)
    with pytest.raises(UsageError, match="expected at most 240 positions"):
        prefetch.submit(make_ask("a", "x", max_tokens=500)).result(SOON_S)


def test_an_ask_may_be_given_up_before_it_is_a_request(prefetch: Prefetch) -> None:
    ask, begun, may = held(make_ask("a", "x", picture(), max_tokens=100))
    future = prefetch.submit(ask)
    assert begun.wait(SOON_S)
    prefetch.abort("a")
    may.set()
    assert future.result(SOON_S).finish_reason is FinishReason.ABORTED


def test_closing_drops_what_was_not_composed(prefetch: Prefetch) -> None:
    asks = [held(make_ask(str(at), "x", picture(), max_tokens=100)) for at in range(4)]
    futures = [prefetch.submit(ask) for ask, _, _ in asks]
    assert asks[0][1].wait(SOON_S)
    threading.Timer(0.05, lambda: [may.set() for _, _, may in asks]).start()
    prefetch.close()
    assert {one.result(SOON_S).finish_reason for one in futures} == {FinishReason.ABORTED}


def test_closed_it_takes_nothing_any_more(prefetch: Prefetch) -> None:
    prefetch.close()
    with pytest.raises(EngineClosed):
        prefetch.submit(make_ask("a", "x"))


def test_an_id_that_is_being_composed_is_in_use(prefetch: Prefetch) -> None:
    ask, begun, may = held(make_ask("a", "x", picture(), max_tokens=2))
    future = prefetch.submit(ask)
    assert begun.wait(SOON_S)
    with pytest.raises(UsageError, match="not in the engine, got 'a'"):
        prefetch.submit(ask)
    may.set()
    assert len(future.result(SOON_S).ids) == 2
    assert len(prefetch.submit(make_ask("a", "x", max_tokens=3)).result(SOON_S).ids) == 3


def test_nobody_waits_while_a_schema_is_compiled_and_an_abort_meanwhile_is_kept(
    prefetch: Prefetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may, loop = threading.Event(), threading.Event(), prefetch._loop
    prepare = loop._engine.prepare

    def slow(request: Request) -> Live:
        if request.id == "slow":
            begun.set()
            assert may.wait(SOON_S)
        return prepare(request)

    monkeypatch.setattr(loop._engine, "prepare", slow)
    future = prefetch.submit(make_ask("slow", "x", max_tokens=150))
    assert begun.wait(SOON_S)
    try:
        others = threading.Thread(target=lambda: (prefetch.abort("slow"), prefetch.submit(make_ask("b", "x")).result()))
        others.start()
        others.join(SOON_S / 6)
        assert not others.is_alive()
    finally:
        may.set()
    assert future.result(SOON_S).finish_reason is FinishReason.ABORTED
