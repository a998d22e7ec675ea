"""The engine's thread, from outside."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import replace

import pytest

from omni_jobs.errors import UsageError
from tests.workers.engine.make import Rig, expected, make_request, make_rig
from workers.engine.errors import EngineClosed, EngineFailed, NeverFits, RequestFailed
from workers.engine.loop import Loop
from workers.engine.request import Delta, FinishReason, Result

SOON_S = 60.0


@pytest.fixture
def rig() -> Rig:
    return make_rig()


@pytest.fixture
def loop(rig: Rig) -> Iterator[Loop]:
    with Loop(rig.engine) as loop:
        yield loop
    if not loop.health():
        rig.memory.check()


def result(future: "Future[Result]") -> Result:
    return future.result(SOON_S)


class Gate:
    """A listener that holds the engine's thread between two steps."""

    def __init__(self) -> None:
        self.arrived, self.open = threading.Event(), threading.Event()

    def __call__(self, delta: Delta) -> None:
        self.arrived.set()
        assert self.open.wait(SOON_S)


def test_many_threads_submit_and_each_gets_its_own_answer(loop: Loop) -> None:
    requests = [make_request(str(at), prompt=1 + at % 7, max_tokens=1 + at % 5) for at in range(24)]
    futures: dict[str, Future[Result]] = {}

    def submit(some: list) -> None:
        for request in some:
            futures[request.id] = loop.submit(request)

    threads = [threading.Thread(target=submit, args=(requests[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)
    for request in requests:
        assert result(futures[request.id]).ids == expected(request)[0]
    assert loop.stats.finished == 24
    assert loop.load.running == loop.load.waiting == 0
    assert loop.load.free_slots == 4


def test_a_listener_hears_every_delta_before_the_result(loop: Loop) -> None:
    heard: list[int] = []
    future = loop.submit(make_request(max_tokens=9), lambda delta: heard.extend(delta.ids))
    future.add_done_callback(lambda _: heard.append(-1))
    assert [*result(future).ids, -1] == heard


def test_a_listener_that_fails_ends_its_request_alone(loop: Loop) -> None:
    def broken(delta: Delta) -> None:
        raise KeyError("gone")

    other = make_request("b", max_tokens=9)
    future, well = loop.submit(make_request("a", max_tokens=50), broken), loop.submit(other)
    with pytest.raises(RequestFailed, match="its listener failed: KeyError"):
        result(future)
    assert result(well).ids == expected(other)[0]


def test_an_abort_gives_what_was_said(loop: Loop) -> None:
    gate = Gate()
    future = loop.submit(make_request("a", max_tokens=150), gate)
    assert gate.arrived.wait(SOON_S)
    loop.abort("a")
    assert 0 < loop.progress("a") < 1
    gate.open.set()
    ended = result(future)
    assert ended.finish_reason is FinishReason.ABORTED
    assert 1 <= len(ended.ids) < 150
    assert loop.progress("a") == 0.0
    loop.abort("a")


def test_what_can_never_be_answered_is_refused_where_it_is_asked(loop: Loop) -> None:
    with pytest.raises(NeverFits):
        loop.submit(make_request(max_tokens=5000))


def test_two_of_one_id_are_refused_and_the_first_is_answered(loop: Loop) -> None:
    gate = Gate()
    future = loop.submit(make_request("a"), gate)
    with pytest.raises(UsageError, match="not in the engine, got 'a'"):
        loop.submit(make_request("a"))
    gate.open.set()
    assert len(result(future).ids) == 4


def test_steps_count_while_it_works(loop: Loop) -> None:
    result(loop.submit(make_request(max_tokens=6)))
    assert loop.steps >= 6


def test_draining_answers_what_is_there_and_takes_nothing_new(rig: Rig) -> None:
    loop, gate = Loop(rig.engine), Gate()
    future = loop.submit(make_request("a", max_tokens=30), gate)
    waiting = [loop.submit(make_request(str(at), max_tokens=3)) for at in range(6)]
    assert gate.arrived.wait(SOON_S)
    assert not loop.close(drain=True, timeout_s=0.0)
    with pytest.raises(EngineClosed):
        loop.submit(make_request("late"))
    gate.open.set()
    assert loop.close(drain=True, timeout_s=SOON_S)
    assert [len(result(one).ids) for one in (future, *waiting)] == [30, *[3] * 6]
    rig.memory.check()


def test_closing_aborts_what_is_there(rig: Rig) -> None:
    loop, gate = Loop(rig.engine), Gate()
    futures = [loop.submit(make_request(str(at), max_tokens=150), gate if at == 0 else None) for at in range(8)]
    assert gate.arrived.wait(SOON_S)
    threading.Timer(0.05, gate.open.set).start()
    assert loop.close(timeout_s=SOON_S)
    assert {result(one).finish_reason for one in futures} == {FinishReason.ABORTED}
    assert loop.close()
    rig.memory.check()


def test_a_deadline_is_kept(rig: Rig, loop: Loop) -> None:
    gate = Gate()
    future = loop.submit(replace(make_request(max_tokens=150), deadline_s=1.0), gate)
    assert gate.arrived.wait(SOON_S)
    rig.now[0] = 1.0
    gate.open.set()
    assert result(future).finish_reason is FinishReason.DEADLINE


def test_a_failed_step_fails_everybody_and_the_engine_says_why(rig: Rig, loop: Loop) -> None:
    gate = Gate()
    futures = [loop.submit(make_request(str(at), max_tokens=50), gate if at == 0 else None) for at in range(6)]
    assert gate.arrived.wait(SOON_S)
    rig.model.faults["forward"] = [RuntimeError("an illegal address")]
    gate.open.set()
    assert not wait(futures, SOON_S).not_done
    assert {type(one.exception()) for one in futures} == {EngineFailed}
    assert "an illegal address" in loop.health()
    with pytest.raises(EngineFailed, match="an illegal address"):
        loop.submit(make_request("later"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_ever_when_the_thread_itself_dies(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, gate = Loop(rig.engine), Gate()
    futures = [loop.submit(make_request(str(at), max_tokens=50), gate if at == 0 else None) for at in range(3)]
    assert gate.arrived.wait(SOON_S)
    monkeypatch.setattr(rig.engine, "step", lambda: [][0])
    gate.open.set()
    assert not wait(futures, SOON_S).not_done
    assert {type(one.exception()) for one in futures} == {EngineFailed}
    assert "IndexError" in loop.health()
    assert loop.close(timeout_s=SOON_S)
