"""What is said of weights that are not here yet."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workers.engine.checkpoint import card, configs
from workers.engine.checkpoint.forecast import forecast
from workers.engine.checkpoint.survey import survey

Directory = Callable[..., Path]


@pytest.mark.parametrize("algo", [None, "FP8", "NVFP4"])
def test_it_says_beforehand_what_the_survey_finds(tiny: Directory, tmp_path: Path, algo: str | None) -> None:
    found = survey(tiny(algo))
    for name in ("config.json", "hf_quant_config.json"):
        if (tiny(algo) / name).exists():
            (tmp_path / name).write_bytes((tiny(algo) / name).read_bytes())
    said = forecast(tmp_path, found["size_bytes"])
    assert said == {key: found[key] for key in ("format", "kv_cache", "card")}


@pytest.mark.parametrize(("gigabytes", "fits"), [(24, False), (48, False), (80, True), (141, True)])
def test_the_official_bf16_weights_fit_where_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gigabytes: int, fits: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(configs.reference()))
    monkeypatch.setattr(card, "card", lambda: ("NVIDIA", gigabytes << 30))
    said = forecast(tmp_path, 66_031_197_824)
    assert (said["format"], said["card"]["fits"], said["card"]["name"]) == ("dense", fits, "NVIDIA")


def _ran(given: Any, *, without_torch: bool = False) -> Any:
    code = "import sys; sys.modules['torch'] = None;" if without_torch else ""
    code += "from workers.engine.checkpoint import forecast; forecast.main()"
    words = [sys.executable, "-c", code]
    root = Path(__file__).parents[4]
    ran = subprocess.run(words, input=json.dumps(given), capture_output=True, text=True, cwd=root, check=True)
    return json.loads(ran.stdout)


def test_as_a_program_it_answers_each_in_order_without_torch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(configs.tiny()))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llama"}')
    places = [tmp_path / "none", tmp_path, tmp_path / "other"]
    said = _ran([{"directory": str(place), "weights_bytes": 1000} for place in places], without_torch=True)
    assert "config.json: cannot be read" in said[0]["error"]["message"]
    assert said[1]["card"]["fits"] and said[1]["kv_cache"] == "float32"
    assert "/model_type: expected" in said[2]["error"]["message"]
