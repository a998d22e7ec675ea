"""What a client and `/health` see when the engine fails under them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from openai import OpenAI

from omni_jobs.access import Gate
from tests.workers.serving.conftest import HOSTS, NAME, listening, waits_until
from workers.engine.output import Output
from workers.engine.scheduler import Budgets
from workers.engine.start import Running, start
from workers.serving.app import Serving, create_app
from workers.serving.exchange import Exchange
from workers.serving.resident import Resident

FAULT = ValueError("a planted fault")


class Asked:
    """A server of its own over one engine, for a fault in it."""

    def __init__(self, port: int, resident: Resident) -> None:
        self.resident = resident
        self._url = f"http://127.0.0.1:{port}"
        self._client = OpenAI(base_url=f"{self._url}/v1", api_key="none", max_retries=0, timeout=30)

    def chat(self, **more: Any) -> Any:
        return self._client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": "x"}], temperature=0.0,
            extra_body={"chat_template_kwargs": {"enable_thinking": False}}, **{"max_tokens": 8, **more},
        )  # fmt: skip

    def health(self) -> tuple[int, str]:
        answer = requests.get(f"{self._url}/health", timeout=10)
        return answer.status_code, answer.json()["status"]


@pytest.fixture
def asked(checkpoint: Path) -> Iterator[Asked]:
    yield from _asked(
        Resident(lambda: start(checkpoint, state_bytes=40_000_000, budgets=Budgets(tokens=64, context=1024)))
    )


def _asked(resident: Resident) -> Iterator[Asked]:
    serving = Serving(resident=resident, names=(NAME,), context=1024)
    with listening(create_app(serving, Gate("", HOSTS))) as port:
        yield Asked(port, resident)
    resident.close()


def engine_of(asked: Asked) -> Any:
    running: Running = asked.resident.take()
    asked.resident.give_back()
    return running.loop._engine


def after(count: int, call: Any) -> Any:
    """The call, which fails once `count` of them went well; later ones go well again."""
    calls: list[int] = []

    def failing(*words: Any) -> Any:
        calls.append(len(calls))
        if calls[-1] == count:
            raise FAULT
        return call(*words)

    return failing


@pytest.mark.parametrize(("owner", "name"), [(Output, "push"), (Exchange, "_tell")])
def test_a_fault_of_one_answer_ends_its_stream_with_an_event(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    """In the engine, or where it hands on what was said."""
    whole = asked.chat().choices[0].message.content
    monkeypatch.setattr(owner, name, after(3, getattr(owner, name)))
    stream, said = asked.chat(stream=True), []
    with pytest.raises(openai.APIError, match="a planted fault") as told:
        said.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert told.value.body == {"message": told.value.message, "type": "server_error", "param": None, "code": "internal"}
    assert said and whole.startswith("".join(said))
    # Nobody else is touched.
    assert asked.health() == (200, "ok") and asked.chat().choices[0].message.content == whole
    assert waits_until(lambda: asked.resident.users == 0)


def test_a_fault_before_the_first_word_has_a_status(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (True, False):
        monkeypatch.setattr(Output, "push", after(0, Output.push))
        with pytest.raises(openai.InternalServerError, match="a planted fault"):
            asked.chat(stream=stream)


def test_a_dead_engine_is_said_in_the_stream_by_503_and_by_health(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = engine_of(asked)._runner
    monkeypatch.setattr(runner, "launch", after(6, runner.launch))
    stream = asked.chat(stream=True, max_tokens=900)
    with pytest.raises(openai.APIError, match="a step of the engine failed: ValueError: a planted fault"):
        list(stream)
    for _ in range(2):
        with pytest.raises(openai.InternalServerError, match="the engine has failed") as refused:
            asked.chat()
        assert refused.value.status_code == 503 and refused.value.response.headers["Retry-After"] == "5"
    status, said = asked.health()
    assert status == 503 and "a planted fault" in said and asked.resident.users == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_whose_thread_is_gone_leaves_nobody_waiting(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(asked)
    monkeypatch.setattr(engine, "step", after(4, engine.step))
    with pytest.raises(openai.APIError, match="the engine's thread has ended"):
        list(asked.chat(stream=True, max_tokens=900))
    assert asked.health()[0] == 503 and asked.resident.users == 0


def test_a_model_that_cannot_be_loaded_is_no_healthy_server() -> None:
    found = [FAULT]

    def load() -> Running:
        raise found[0]

    for asked in _asked(Resident(load)):
        assert asked.health() == (200, "ok")  # nobody has asked for it yet
        with pytest.raises(openai.InternalServerError, match="cannot be loaded: a planted fault") as refused:
            asked.chat()
        assert refused.value.status_code == 503
        assert asked.health() == (503, "the model cannot be loaded: a planted fault")
