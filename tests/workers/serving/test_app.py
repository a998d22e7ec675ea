"""Requests and answers over the wire."""

import json
import socket
from dataclasses import replace
from typing import Any

import openai
import pytest
import requests

from omni_jobs.access import Gate
from tests.workers.serving.conftest import HOSTS, NAME, Served, listening, waits_until
from workers.serving.app import create_app
from workers.serving.bodies import Bodies

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["ochre", "teal"]}, "sure": {"type": "boolean"}},
    "required": ["colour", "sure"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {
    "type": "object", "properties": {"where": {"enum": ["up", "down"]}}, "required": ["where"],
    "additionalProperties": False,
}}}  # fmt: skip
FORCED = {"type": "function", "function": {"name": "look"}}


def refused(served: Served, path: str = "/chat/completions", **body: Any) -> tuple[int, dict[str, Any]]:
    messages = {"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {}
    response = requests.post(served.url + path, json={"model": NAME, **messages, **body}, timeout=30)
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error


def joined(stream: Any) -> tuple[str, str, list[str], Any]:
    content, thought, finishes, usage = "", "", [], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            thought += getattr(choice.delta, "reasoning_content", None) or ""
            finishes += [choice.finish_reason] if choice.finish_reason else []
    return content, thought, finishes, usage


def test_the_model_is_listed_by_its_name(served: Served) -> None:
    listed = served.client.models.list().data
    assert [one.id for one in listed] == [NAME]
    assert listed[0].max_model_len == 65_536  # type: ignore[attr-defined]
    assert served.client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="expected one of"):
        served.client.models.retrieve("other")


def test_the_same_seed_says_the_same_and_is_counted(served: Served) -> None:
    said = [served.chat(temperature=1.0, seed=5).choices[0].message.content for _ in range(2)]
    assert said[0] == said[1] != served.chat(temperature=1.0, seed=6).choices[0].message.content


@pytest.mark.parametrize("thinking", [True, False])
def test_a_stream_adds_up_to_the_whole(served: Served, thinking: bool) -> None:
    asked: dict[str, Any] = {
        "temperature": 1.0, "seed": 8, "max_tokens": 40, "thinking_token_budget": 10,
        "chat_template_kwargs": {"enable_thinking": thinking},
    }  # fmt: skip
    whole = served.chat(**asked)
    stream = served.chat(**asked, stream=True, stream_options={"include_usage": True})
    content, thought, finishes, usage = joined(stream)
    message = whole.choices[0].message
    assert content == message.content and finishes == [whole.choices[0].finish_reason]
    assert thought == (getattr(message, "reasoning_content", None) or "")
    assert bool(thought) is thinking
    assert usage == whole.usage


def test_a_thought_ends_within_its_budget(served: Served) -> None:
    usage = [
        served.chat(
            seed=seed, temperature=1.0, max_tokens=40, thinking_token_budget=6, chat_template_kwargs={}
        ).usage.completion_tokens_details.reasoning_tokens
        for seed in range(3)
    ]
    assert max(usage) == 6  # noise rarely ends a thought by itself


def test_an_answer_keeps_to_its_schema(served: Served) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "shape", "schema": SCHEMA}}
    answer = json.loads(served.chat(response_format=form, temperature=1.0, max_tokens=80).choices[0].message.content)
    assert answer["colour"] in ("ochre", "teal") and isinstance(answer["sure"], bool)


@pytest.mark.parametrize("choice", ["required", FORCED])
def test_a_call_can_be_forced(served: Served, choice: Any) -> None:
    asked = {"tools": [TOOL], "tool_choice": choice, "max_tokens": 80, "seed": 1}
    whole = served.chat(**asked).choices[0]
    assert whole.finish_reason == "tool_calls" and whole.message.content is None
    call = whole.message.tool_calls[0]
    assert call.type == "function" and call.function.name == "look" and call.id.startswith("call_")
    assert json.loads(call.function.arguments)["where"] in ("up", "down")
    chunks = [one.choices[0] for one in served.chat(**asked, stream=True)]
    (told,) = [call for one in chunks for call in one.delta.tool_calls or []]
    assert (told.index, told.function.arguments) == (0, call.function.arguments)
    assert chunks[-1].finish_reason == "tool_calls"


def test_stops_and_logprobs(served: Served) -> None:
    plain = served.chat(max_tokens=30, logprobs=True)
    text = plain.choices[0].message.content
    tokens = plain.choices[0].logprobs.content
    assert len(tokens) == plain.usage.completion_tokens and all(one.logprob <= 0 for one in tokens)
    stop = text[len(text) // 2]
    assert served.chat(max_tokens=30, stop=stop).choices[0].message.content == text[: text.index(stop)]


def test_a_completion_shows_its_tags(served: Served) -> None:
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"
    body = {"top_k": 1, "thinking_token_budget": 3}
    whole = served.client.completions.create(model=NAME, prompt=prompt, max_tokens=12, extra_body=body)
    assert "</think>" in whole.choices[0].text
    stream = served.client.completions.create(model=NAME, prompt=prompt, max_tokens=12, stream=True, extra_body=body)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


@pytest.mark.parametrize(
    ("body", "status", "says", "param"),
    [
        ({"model": "gpt-5"}, 404, "expected one of", "model"),
        ({"n": 2}, 400, "does not do that", "n"),
        ({"temperature": "hot"}, 400, "a number from 0", "temperature"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "a text or a list", "messages[0].content"),
        ({"max_tokens": 70_000}, 400, "at most 65536 positions", None),
        ({"chat_template_kwargs": {"x": 1}}, 400, "expected one of", "chat_template_kwargs.x"),
        ({"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}}, 400, "auto or none",
         "tool_choice"),
        ({"response_format": {"type": "yaml"}}, 400, "json_schema", "response_format.type"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(served: Served, body: dict[str, Any], status: int, says: str, param: str | None) -> None:
    got, error = refused(served, **body)
    assert (got, error["param"]) == (status, param) and says in error["message"]


@pytest.mark.parametrize(
    ("kind", "url", "says"),
    [
        ("image_url", "https://example.org/a.png", "fetches nothing"),
        ("image_url", "data:image/png;base64,AAAA", "no reader recognises"),
        ("image_url", "data:image/png;base64,!!", "expected base64"),
        ("video_url", "file:///etc/passwd", "does not lie below"),
        ("audio_url", "data:audio/wav,hello", "expected"),
    ],
)
def test_media_that_cannot_be_had(served: Served, kind: str, url: str, says: str) -> None:
    status, error = refused(served, messages=[{"role": "user", "content": [{"type": kind, kind: {"url": url}}]}])
    assert status == 400 and says in error["message"]


def test_bodies_that_are_none(served: Served) -> None:
    for data, says in ((b"{", "JSON object"), (b"[1]", "JSON object"), (b"[" * 100_000, "JSON object")):
        response = requests.post(f"{served.url}/chat/completions", data=data, timeout=30)
        assert response.status_code == 400 and says in response.json()["error"]["message"]
    assert requests.post(f"{served.url}/nothing", timeout=30).json()["error"]["message"].startswith("nothing has")


def test_too_much_at_once(served: Served) -> None:
    serving = replace(served.serving, bodies=Bodies(100, 150))
    with listening(create_app(serving, Gate("", HOSTS))) as port:
        url = f"http://127.0.0.1:{port}/v1/completions"
        assert requests.post(url, json={"prompt": "x" * 200}, timeout=30).status_code == 413
        assert requests.post(url, data=iter([b"x" * 60] * 9), timeout=30).status_code == 413
        assert waits_until(lambda: serving.bodies.held_bytes == 0)
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n" + b" " * 90)
            assert waits_until(lambda: serving.bodies.held_bytes == 90)
            full = requests.post(url, data=b"x" * 80, timeout=30)
            assert full.status_code == 429 and full.headers["Retry-After"] == "5"
            assert full.json()["error"]["code"] == "rate_limit_exceeded"
        assert waits_until(lambda: serving.bodies.held_bytes == 0)


def test_who_leaves_is_forgotten(served: Served) -> None:
    resident = served.serving.resident
    for stream in (True, False):
        body = {
            "model": NAME, "messages": [{"role": "user", "content": "x"}], "max_tokens": 20_000, "temperature": 1.0,
            "stream": stream, "response_format": {"type": "json_schema", "json_schema": {"schema": {
                "type": "array", "items": {"type": "integer"}, "minItems": 9_000}}},
            "chat_template_kwargs": {"enable_thinking": False},
        }  # fmt: skip
        data = json.dumps(body).encode()
        host = served.url.removeprefix("http://").removesuffix("/v1")
        with socket.create_connection(host.split(":")) as line:  # type: ignore[arg-type]
            line.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data)
                + data
            )
            assert waits_until(lambda: (load := resident.condition().load) is not None and load.running == 1)
        assert waits_until(lambda: resident.condition().users == 0)


def test_a_key_is_asked_for(served: Served) -> None:
    with listening(create_app(served.serving, Gate("secret", HOSTS))) as port:
        url = f"http://127.0.0.1:{port}"
        answer = requests.get(f"{url}/v1/models", timeout=30)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert requests.get(f"{url}/v1/models", headers={"Authorization": "Bearer secret"}, timeout=30).ok
        assert requests.get(f"{url}/v1/models", headers={"Host": "evil.example"}, timeout=30).status_code == 421
        assert requests.get(f"{url}/health", timeout=30).json()["status"] == "ok"
