"""`omni-jobs doctor --checkpoint DIR`."""

import json
from pathlib import Path

import pytest

from tests.omni_jobs.cli.conftest import Run

pytest.importorskip("torch")

from workers.engine.checkpoint import configs
from workers.engine.checkpoint.drawn import Drawn
from workers.engine.checkpoint.write import write


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))


def test_a_whole_checkpoint_is_described(place: Path, run: Run) -> None:
    write(Drawn(configs.tiny(), "FP8"), place / "model")
    ran = run("doctor", "--checkpoint", "model", "--json")
    report = ran.document
    assert ran.status == 0 and report["ok"] and report["whole"]
    assert report["directory"] == str(place / "model") and len(report["digest"]) == 64
    assert (report["format"], report["tensors"], report["parameters"]) == ("FP8", 334, 1_175_840)
    out = run("doctor", "--checkpoint", "model").out
    assert "model       1,175,840 parameters, 334 tensors" in out
    assert "format      FP8 (linear layers: 64 FP8); KV cache FP8" in out
    assert "fits        yes: beside it" in out and "whole       yes" in out


def test_a_broken_one_fails_and_says_why(place: Path, run: Run) -> None:
    write(Drawn(configs.tiny()), place / "model")
    first = place / "model" / "model-00001-of-00002.safetensors"
    first.write_bytes(first.read_bytes()[:-1])
    ran = run("doctor", "--checkpoint", "model")
    assert ran.status == 1
    assert "whole       no: 1 problem\n" in ran.out
    assert "problem     1 files that cannot be used (model-00001-of-00002.safetensors: expected" in ran.out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (None, "config.json: cannot be read"),
        ({"model_type": "llama"}, "/model_type: expected"),
        ({"llm_config": 7}, "/llm_config: expected an object, got 7"),
    ],
)
def test_what_is_no_checkpoint_is_a_mistake(place: Path, run: Run, change: dict[str, object] | None, said: str) -> None:
    if change is not None:
        (place / "config.json").write_text(json.dumps(configs.tiny() | change))
    ran = run("doctor", "--checkpoint", ".", "--json")
    assert ran.status == 2 and said in ran.err
    assert ran.document["error"]["type"] == "invalid" and ran.document["error"]["retryable"] is False


def test_a_card_that_is_too_small_is_no_place_for_it() -> None:
    from omni_jobs.cli.checkpoint import lines

    card = {
        "name": "L4",
        "memory_bytes": 24e9,
        "free_bytes": -15e9,
        "fits": False,
        "window_tokens": 16,
        "sequences": {},
    }
    report = {"directory": "d", "size_bytes": 35e9, "files": 1, "digest": "", "parameters": 1, "tensors": 1,
              "format": "FP8", "linear_layers": {}, "kv_cache": "FP8", "parts": [], "card": card, "whole": True,
              "problem_count": 0, "summary": []}  # fmt: skip
    assert "fits        no: 15.0 GB too few" in list(lines(report))
