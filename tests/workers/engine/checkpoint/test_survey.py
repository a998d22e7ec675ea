"""What is found out about a directory before anything is loaded."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.engine.checkpoint.survey import LISTED, survey

pytest.importorskip("safetensors")
from tests.workers.engine.checkpoint.planted import Tensors, edit

Directory = Callable[..., Path]


def test_a_whole_directory(tiny: Directory) -> None:
    found = survey(tiny("NVFP4"))
    assert found["whole"] and found["problems"] == [] and found["summary"] == []
    assert (found["format"], found["kv_cache"], found["tensors"], found["files"]) == ("NVFP4", "FP8", 376, 2)
    assert found["linear_layers"] == {"FP8": 13, "dense": 3, "NVFP4": 48}
    assert found["parameters"] == 1_175_840
    assert sum(part["tensors"] for part in found["parts"]) == 376
    assert sum(part["size_bytes"] for part in found["parts"]) == found["size_bytes"]
    assert found["card"]["fits"] and set(found["card"]["sequences"]) == {"audio", "page", "video"}


def test_a_broken_one_is_described_not_raised(copied: Directory) -> None:
    directory = copied("FP8")

    def drop(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(("_scale", "norm.weight"))]:
            del tensors[name]

    edit(directory, drop)
    found = survey(directory)
    assert not found["whole"] and found["problem_count"] > LISTED == len(found["problems"])
    assert found["problems"][0].keys() == {"kind", "name", "detail"}
    assert any("tensors missing" in line for line in found["summary"])


def test_it_needs_no_torch(tiny: Directory) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from pathlib import Path;"
        "from workers.engine.checkpoint import survey;"
        "found = survey.survey(Path(sys.argv[1])); print(found['whole'], 'numpy' in sys.modules)"
    )
    words = [sys.executable, "-c", code, str(tiny())]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[4], check=True)
    assert ran.stdout == "True False\n"


def test_as_a_program_it_prints_a_document_whatever_it_is_given(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "workers.engine.checkpoint.survey", str(tmp_path)]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[4], check=True)
    assert "config.json: cannot be read" in json.loads(ran.stdout)["error"]["message"]
