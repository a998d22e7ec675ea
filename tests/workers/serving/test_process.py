"""The process itself: `python -m workers serve-model`, asked over its port, told to end by signals."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from openai import OpenAI
from PIL import Image

from tests.workers.serving.conftest import waits_until

NAME = "tiny-omni"
PLAIN: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
# Noise does not end this by itself.
ENDLESS = {"type": "json_schema", "json_schema": {"name": "many", "schema": {
    "type": "array", "items": {"type": "integer"}, "minItems": 9_000}}}  # fmt: skip
MOST_REQUESTS, DRAIN_S = 3, 3.0
WORDS = [sys.executable, "-m", "workers", "serve-model"]


@dataclass
class Process:
    """A server that runs, what it logs, and a client of it."""

    process: "subprocess.Popen[str]"
    port: int
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def health(self) -> requests.Response:
        return requests.get(f"{self.url}/health", timeout=10)

    def is_idle(self) -> bool:
        said = self.health().json()
        return (said["requests"], said["running"], said["waiting"]) == (0, 0, 0)

    def chat(self, content: Any = "Say it.", **more: Any) -> Any:
        fields = {"max_tokens": 8, "temperature": 0.0, **more}
        return self.client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": content}], extra_body=PLAIN, **fields
        )

    def endless(self) -> Any:
        """A stream that has begun and goes on for minutes."""
        stream = self.chat(max_tokens=20_000, stream=True, response_format=ENDLESS, temperature=1.0)
        next(stream)
        return stream

    def post(self, data: bytes | str, **headers: str) -> requests.Response:
        return requests.post(f"{self.url}/v1/chat/completions", data=data, headers=headers, timeout=30)


def environment(home: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("OMNI_")}
    return {**ours, "OMNI_HOME": str(home), "OMNI_LOG_FORMAT": "json", "OMNI_THREADS": "1"}


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    options = {"--model": checkpoint, "--name": NAME, "--device": "cpu", "--port": 0, "--drain-s": DRAIN_S,
               "--max-requests": MOST_REQUESTS, "--max-body-mb": 1}  # fmt: skip
    words = [*WORDS, *(str(word) for pair in options.items() for word in pair)]
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env=environment(tmp_path_factory.mktemp("home"))
    )
    found = Process(process, 0)
    assert process.stderr is not None

    def read(lines: Iterator[str]) -> None:
        found.log.extend(json.loads(line) if line.startswith("{") else {"event": line} for line in lines)

    reading = threading.Thread(target=read, args=(process.stderr,), daemon=True)
    reading.start()
    try:
        assert waits_until(lambda: process.poll() is not None or found.log, 60)
        assert found.log[0]["event"] == "serving.listening", found.log
        found.port = found.log[0]["port"]
        assert waits_until(lambda: _answers(found.port))
        yield found
    finally:
        process.kill()
        process.wait()
        reading.join(10)


def _answers(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0


def test_it_is_ready_when_it_listens(server: Process) -> None:
    assert server.health().json() == {"status": "ok", "loaded": True, "requests": 0, "running": 0, "waiting": 0}
    assert [one.id for one in server.client.models.list()] == [NAME]


def test_a_chat_and_its_stream_say_the_same(server: Process) -> None:
    whole = server.chat()
    assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 8
    chunks = list(server.chat(stream=True, stream_options={"include_usage": True}))
    said = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert said == whole.choices[0].message.content and chunks[-1].usage == whole.usage


def test_a_picture_is_looked_at(server: Process) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert("RGB").save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    text = {"type": "text", "text": "Say it."}
    shown = server.chat([{"type": "image_url", "image_url": {"url": url}}, text])
    assert shown.usage.prompt_tokens > server.chat([text]).usage.prompt_tokens + 2


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1]", b"null", b"\xff\xfe\x00", b'{"model": "\xed\xa0\x80"}', b'{"messages": ' + b"[" * 99_000,
     b'{"model": 1e999}', b'{"seed": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_rubbish_is_refused_in_the_shape_of_the_api(server: Process, data: bytes) -> None:
    answer = server.post(data)
    assert answer.status_code in (400, 404) and answer.headers["Content-Type"] == "application/json"
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_what_cannot_be_asked_is_said_by_type(server: Process) -> None:
    with pytest.raises(openai.NotFoundError, match="expected one of tiny-omni"):
        server.client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="at most 65536 positions") as refused:
        server.chat(max_tokens=70_000)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="max_tokens: expected a whole number from 1 to 262144"):
        server.chat(max_tokens=10**30)
    assert server.post(b" " * (2 << 20)).status_code == 413


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "http://["}]
)
def test_another_hosts_pages_get_nothing(server: Process, headers: dict[str, str]) -> None:
    answer = server.post(b"{}", **headers)
    assert answer.status_code == 421 and answer.json()["error"]["code"] == "misdirected"


def test_who_hangs_up_gives_the_place_back_and_is_no_error(server: Process) -> None:
    stream = server.endless()
    assert server.health().json()["running"] == 1
    stream.close()
    assert waits_until(server.is_idle)
    with pytest.raises(openai.APITimeoutError):
        server.chat(max_tokens=20_000, response_format=ENDLESS, temperature=1.0, timeout=0.5)
    assert waits_until(server.is_idle)
    assert not [line for line in server.log if line.get("level") == "error"], server.log


def test_too_many_are_told_to_come_later(server: Process) -> None:
    streams = [server.endless() for _ in range(MOST_REQUESTS)]
    with pytest.raises(openai.RateLimitError, match="expected at most 3 requests at once") as refused:
        server.chat()
    assert refused.value.response.headers["Retry-After"] == "5"
    for stream in streams:
        stream.close()
    assert waits_until(server.is_idle)
    assert server.chat().usage.completion_tokens == 8


def test_told_to_end_it_ends_what_it_can_says_so_and_exits_well(server: Process) -> None:
    """Last here: the server is gone afterwards."""
    kept = requests.Session()  # a connection that stays, as those of clients and load balancers do
    kept.get(f"{server.url}/health", timeout=10)
    endless, short = server.endless(), server.chat(stream=True, max_tokens=12)
    next(short)
    told = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert waits_until(lambda: kept.get(f"{server.url}/health", timeout=10).status_code == 503, DRAIN_S)
    refused = server.post(json.dumps({"model": NAME, "messages": [{"role": "user", "content": "x"}]}))
    assert refused.status_code == 503 and refused.headers["Retry-After"] == "5"
    assert refused.json()["error"]["message"] == "the server is closing"
    assert [chunk.choices[0].finish_reason for chunk in short][-1] == "length"
    with pytest.raises(openai.APIError, match="the server is closing"):
        list(endless)
    assert DRAIN_S <= time.monotonic() - told < DRAIN_S + 10
    assert server.process.wait(20) == 0 and waits_until(lambda: server.log[-1]["event"] == "serving.ended", 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "error: others can reach 0.0.0.0, and nothing asks them for a key: set OMNI_API_KEY"),
        (["--model", "nowhere"], "neither a model of that name nor a directory"),
    ],
)
def test_what_it_does_not_start_with(checkpoint: Path, tmp_path: Path, options: list[str], said: str) -> None:
    words = [*WORDS, "--model", str(checkpoint), *options]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(tmp_path), timeout=60)
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1
