"""A directory of few weights that nobody trained, and backends that run it on the CPU."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from omni_jobs.settings import Settings
from workers import prompts
from workers.backends.local import Local
from workers.engine import start
from workers.engine.checkpoint import configs
from workers.engine.checkpoint.drawn import Drawn
from workers.engine.checkpoint.write import write
from workers.engine.tekken import tokenizer_json
from workers.engine.tokenizer import Tokenizer
from workers.flight import Flight

Make = Callable[..., Local]
# Text ends by the mark of a turn, JSON by quotes and brackets: the likelier these are, the shorter an answer.
END, LIKELY_END = 11, 2.0
MARKS, LIKELY_MARK = ('"', "]", "}", "1"), 5.0
SEED = 3


class Brief(Drawn):
    """Its text is noise, but it comes to an end."""

    def __init__(self, raw: dict[str, Any], seed: int = SEED) -> None:
        super().__init__(raw, seed=seed)
        tokenizer = Tokenizer(tokenizer_json())
        self._marks = [tokenizer.encode(text)[0] for text in MARKS]

    def tensor(self, name: str) -> Tensor:
        drawn = super().tensor(name)
        if name.endswith("lm_head.weight"):
            drawn[END] *= LIKELY_END
            drawn[self._marks] *= LIKELY_MARK
        return drawn


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory."""
    path = tmp_path_factory.mktemp("weights") / "tiny-omni"
    write(Brief(configs.tiny()), path)
    return path


@pytest.fixture
def settings_of(weights: Path, tmp_path: Path) -> Callable[..., Settings]:
    def make(**changes: Any) -> Settings:
        common: dict[str, Any] = {
            "model": str(weights), "model_max_tokens": 256, "model_frames": 8, "threads": 1, "home": tmp_path / "home",
        }  # fmt: skip
        return Settings(backend="local", **{**common, **changes})

    return make


@pytest.fixture
def local(settings_of: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes backends; a step that fails ends no process."""
    monkeypatch.setattr(start, "CPU_BYTES", 24_000_000)
    made: list[tuple[Local, Flight]] = []

    def make(flight: Flight | None = None, **changes: Any) -> Local:
        on_failure = changes.pop("on_failure", lambda reason: None)
        flight = flight or Flight(tmp_path / "flights" / str(len(made)))
        one = Local(settings_of(**changes), flight, on_failure)
        made.append((one, flight))
        return one

    yield make
    for one, flight in made:
        one.close()
        flight.close()


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    """A schema of an object with just these, all of them."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def listed(properties: dict[str, Any]) -> dict[str, Any]:
    """A schema of a list of one of them."""
    return {"type": "array", "items": closed(properties), "minItems": 1, "maxItems": 1}


TEXT = {"type": "string", "pattern": "^[a-z ]{3,20}[a-z]$"}
# What answers the question, and nothing else: drawn under it, noise is an answer that no gate refuses.
ANSWERS: dict[str, dict[str, Any]] = {
    "ShotsSaid": {"shots": listed({"shot": {"const": 1}, "caption": TEXT, "on_screen": {"const": []}})},
    "PageSaid": {
        "language": {"const": "en"},
        "blocks": listed({"kind": {"const": "text"}, "text": TEXT, "rows": {"const": []}}),
        "unread": {"const": ""},
    },
    "SummarySaid": {"sentences": listed({"text": TEXT, "passages": {"const": [2]}})},
}


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grammar lets the model say only what answers the question."""
    monkeypatch.setattr(prompts, "schema_of", lambda shape: closed(ANSWERS[shape.__name__]))
