"""A tiny checkpoint, written once, and a hub that has it. Nothing here can reach another machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.omni_jobs.cli.conftest import REPOSITORY, place, run  # noqa: F401
from tests.omni_jobs.models.fake_hub import FakeHub, serving


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in FP8. To be read only."""
    folder = tmp_path_factory.mktemp("models") / "tiny-fp8"
    words = [sys.executable, "-m", "workers.engine.checkpoint.write", str(folder), "--algo", "FP8"]
    subprocess.run(words, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    return folder


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def guarded(host: object, *more: object, **named: object) -> object:
        assert host in ("127.0.0.1", "localhost"), f"a test asked for {host}"
        return resolve(host, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", guarded)


@pytest.fixture
def hub(checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:  # noqa: F811
    """The only hub that commands know of, in this process and in others."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    from omni_jobs.models import fetch

    with serving(FakeHub.of(checkpoint)) as hub:
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        close_session()
        monkeypatch.setenv("HF_HOME", str(place / "hf"))
        monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
        monkeypatch.setenv("OMNI_MIN_FREE_BYTES", "0")
        # The client reads these once; another test may have imported it before.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(place / "hf" / "token"))
        monkeypatch.setattr(fetch, "PAUSES_S", (0.01, 0.01))
        yield hub
