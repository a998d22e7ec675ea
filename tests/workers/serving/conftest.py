"""A server with the tiny model on a free port, once for all tests here."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("openai")
import uvicorn
from fastapi import FastAPI
from openai import OpenAI

from omni_jobs.access import Gate
from workers.engine.checkpoint import configs
from workers.engine.checkpoint.drawn import Drawn
from workers.engine.checkpoint.write import write
from workers.serving import command
from workers.serving.app import Serving, create_app

NAME = "nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-NVFP4"
HOSTS = frozenset({"127.0.0.1", "localhost"})


@dataclass(frozen=True, slots=True)
class Served:
    """A server, the folder whose files it reads, and a client of it."""

    url: str
    serving: Serving
    folder: Path
    client: OpenAI

    def chat(self, content: Any = "Say it.", **more: Any) -> Any:
        """A chat of one message; fields that OpenAI does not have go into the body as they are."""
        fields = {"max_tokens": 12, "temperature": 0.0, "stream": False, **more}
        ours = ("top_k", "chat_template_kwargs", "thinking_token_budget", "mm_processor_kwargs", "media_io_kwargs")
        extra = {name: fields.pop(name) for name in ours if name in fields}
        extra.setdefault("chat_template_kwargs", {"enable_thinking": False})
        messages = fields.pop("messages", [{"role": "user", "content": content}])
        return self.client.chat.completions.create(model=NAME, messages=messages, extra_body=extra, **fields)


@contextmanager
def listening(app: FastAPI) -> Iterator[int]:
    """The port at which an app is served meanwhile."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1)
    listener = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert waits_until(lambda: server.started)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def waits_until(true: Any, seconds: float = 15.0) -> bool:
    latest = time.monotonic() + seconds
    while not true() and time.monotonic() < latest:
        time.sleep(0.02)
    return bool(true())


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for the longest answers that the card asks for."""
    path = tmp_path_factory.mktemp("served-model")
    raw = configs.tiny()
    raw["llm_config"]["max_position_embeddings"] = 65_536
    write(Drawn(raw), path)
    return path


@pytest.fixture(scope="session")
def serving(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    root = tmp_path_factory.mktemp("served-media")
    words = ["--model", str(checkpoint), "--device", "cpu", "--name", NAME, "--allowed-root", str(root)]
    serving = command.serving_of(command.parser().parse_args(words))
    yield serving
    serving.resident.close()


@pytest.fixture(scope="session")
def served(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with listening(create_app(serving, Gate("", HOSTS))) as port:
        yield _served(port, serving)


@pytest.fixture(scope="session")
def served_plain(serving: Serving) -> Iterator[Served]:
    """The same model, with thoughts inside `content`."""
    serving = replace(serving, apart=False)
    with listening(create_app(serving, Gate("", HOSTS))) as port:
        yield _served(port, serving)


def _served(port: int, serving: Serving) -> Served:
    url = f"http://127.0.0.1:{port}/v1"
    return Served(url, serving, serving.sources.roots[0], OpenAI(base_url=url, api_key="none", max_retries=0))
