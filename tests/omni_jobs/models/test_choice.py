"""Which files of a repository are taken."""

import json

import pytest

from omni_jobs.models.choice import INDEX, SINGLE, NoCheckpoint, heads, wanted
from omni_jobs.models.record import ModelFile

ALL = [
    "config.json", "generation_config.json", INDEX, "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "chat_template.jinja", "model-1.safetensors", "model-2.safetensors",
]  # fmt: skip
NEVER = [
    "modeling.py", "configuration.py", "evs.py", "pytorch_model.bin", "model.pt", "model.pth", "weights.pickle",
    "run.sh", "tokenizer.py", "consolidated.safetensors", "original/config.json", "../config.json", ".hidden.json",
    "-x.json", "config.json\n", "README.md", "training_args.bin", "model.safetensors.bin",
]  # fmt: skip


def files(*names: str) -> list[ModelFile]:
    return [ModelFile(name, 10, sha256="0" * 64) for name in names]


def index(*names: str) -> bytes:
    return json.dumps({"weight_map": {f"tensor.{at}": name for at, name in enumerate(names)}}).encode()


def test_data_is_taken_and_code_is_not() -> None:
    found = wanted(files(*ALL, *NEVER), index("model-2.safetensors", "model-1.safetensors"))
    assert {file.name for file in found} == set(ALL)
    assert len(found) == len(ALL)


def test_without_an_index_it_is_one_file() -> None:
    found = wanted(files("config.json", SINGLE, "model-1.safetensors"), None)
    assert [file.name for file in found] == ["config.json", SINGLE]
    with pytest.raises(NoCheckpoint, match=r"expected weights in 'model\.safetensors', as safetensors"):
        wanted(files("config.json", "pytorch_model.bin"), None)


@pytest.mark.parametrize(
    "given",
    [
        b"{}", b"[]", b"<html>", b'{"weight_map": []}', b'{"weight_map": {}}', b'{"weight_map": {"a": 7}}',
        b'{"weight_map": {"a": {}}}', index("pytorch_model.bin"), index("modeling.py"), index("../x.safetensors"),
        index("model-3.safetensors"), b"[" * 100_000,
    ],
)  # fmt: skip
def test_an_index_that_names_no_weights_is_refused(given: bytes) -> None:
    with pytest.raises(NoCheckpoint, match="expected"):
        wanted(files(*ALL, "pytorch_model.bin", "modeling.py", "../x.safetensors"), given)


def test_what_is_fetched_first_is_small() -> None:
    assert {file.name for file in heads(files(*ALL, "hf_quant_config.json"))} == {
        "config.json", "hf_quant_config.json", INDEX,
    }  # fmt: skip
    with pytest.raises(NoCheckpoint, match=r"expected a repository with config\.json, got 1 other files"):
        heads(files("model.gguf"))
    with pytest.raises(NoCheckpoint, match="at most 67,108,864 bytes, got 99,000,000"):
        heads([ModelFile("config.json", 99_000_000)])
