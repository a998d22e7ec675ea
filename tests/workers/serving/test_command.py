"""Options become what is served."""

import re
from pathlib import Path

import pytest

from omni_jobs.models.record import Record
from omni_jobs.models.store import ModelStore
from omni_jobs.settings import Settings
from workers.serving.command import serving_of
from workers.serving.options import parser


@pytest.mark.parametrize(
    "words",
    [["--port", "70000"], ["--context", "0"], ["--idle-s", "nan"], ["--max-requests", "0"], ["--max-body-mb", "x"],
     ["--video-pruning-rate", "1"]],
)  # fmt: skip
def test_options_are_checked(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words)
    assert ended.value.code == 2 and re.search(rf"argument {words[0]}: (expected|invalid)", capsys.readouterr().err)


def test_a_model_is_a_directory_or_has_a_name(checkpoint: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    record = Record("omni-fp8", "hf:a/b", checkpoint, "FP8", (), 0, whole=True)
    with store.locked(record.name):
        store.write(record)
    given = parser().parse_args(["--device", "cpu", "--context", "99999"])
    for model, name in (("omni-fp8", "omni-fp8"), (str(checkpoint), checkpoint.name)):
        serving = serving_of(given, Settings(model=model, models_dir=store.root))
        assert serving.names == (name,) and serving.context == 65_536  # no more than the model has
