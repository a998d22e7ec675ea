"""From a directory to answers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workers.engine.tiny import alone, make_ask
from workers.engine.checkpoint import configs
from workers.engine.checkpoint.drawn import Drawn
from workers.engine.checkpoint.write import write
from workers.engine.media import Image
from workers.engine.request import FinishReason
from workers.engine.scheduler import Budgets
from workers.engine.sections import ConfigError, read_json
from workers.engine.start import Running, start

SOON_S = 60.0


@pytest.fixture
def running(tmp_path: Path) -> Running:
    write(Drawn(configs.tiny()), tmp_path)
    return start(tmp_path, state_bytes=20_000_000, budgets=Budgets(tokens=64, window=2))


def test_a_directory_becomes_an_engine_that_answers(running: Running) -> None:
    picture = Image(torch.zeros(3, 20, 20, dtype=torch.uint8))
    asks = [make_ask("text", "Say it."), make_ask("picture", "See?", picture), make_ask("again", "Say it.")]
    results = [one.result(SOON_S) for one in [running.prefetch.submit(ask) for ask in asks]]
    assert results[0].ids == alone(0) == results[2].ids
    assert results[1].usage.media_tokens > 0
    assert len(running.digest) == 64
    assert running.close()


def test_closing_with_work_in_it_ends_it(running: Running) -> None:
    future = running.prefetch.submit(replace(make_ask("a", "Say it.", max_tokens=3000)))
    assert running.close(timeout_s=SOON_S)
    assert future.result(SOON_S).finish_reason is FinishReason.ABORTED


def test_no_room_for_states_is_refused(tmp_path: Path) -> None:
    write(Drawn(configs.tiny()), tmp_path)
    with pytest.raises(ValueError, match="bytes for a sequence of 4096 positions"):
        start(tmp_path, state_bytes=100_000)


def _swapped(raw: dict[str, Any]) -> None:
    image, other = raw["added_tokens"][18], raw["added_tokens"][500]
    image["content"], other["content"] = other["content"], image["content"]


def _longer(raw: dict[str, Any]) -> None:
    raw["model"]["vocab"]["ĀĀĀ"] = 1280


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_swapped, "tokenizer.json: expected <image> to be 18, got 500"),
        (_longer, "tokenizer.json: expected ids below vocab_size = 1280, got 1280"),
    ],
)
def test_the_tokenizer_of_another_model_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    write(Drawn(configs.tiny()), tmp_path)
    raw = read_json(tmp_path / "tokenizer.json")
    change(raw)
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=message):
        start(tmp_path)


def test_an_answer_that_would_end_elsewhere_is_refused(tmp_path: Path) -> None:
    write(Drawn(configs.tiny()), tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({**read_json(path), "eos_token_id": [2, 12]}))
    with pytest.raises(ConfigError, match=r"/eos_token_id: expected some of 2, 11, got \[2, 12\]"):
        start(tmp_path)
