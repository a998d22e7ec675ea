"""The command line against a small API: in this process, or as a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from omni_jobs.cli import main
from tests.omni_jobs.cli.fake_api import KEY, FakeApi

REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What is on stdout, which must be one JSON document."""
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    fake = FakeApi()
    yield fake
    fake.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, and a home in which nothing ever ran."""
    for name in [name for name in os.environ if name.startswith("OMNI_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMNI_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def served(place: Path, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a stack to talk to."""
    monkeypatch.setenv("OMNI_API_URL", api.url)
    monkeypatch.setenv("OMNI_API_KEY", KEY)
    return place


@pytest.fixture
def run(place: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs one command in this process."""

    def call(*words: str | Path) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return Ran(ended.value.code, said.out, said.err)  # type: ignore[arg-type]

    return call


def start(*words: str | Path, **environment: str) -> "subprocess.Popen[str]":
    """Starts one command as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "omni_jobs.cli", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def make_file(path: Path, content: bytes = b"sound") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
