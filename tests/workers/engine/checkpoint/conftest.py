"""Tiny checkpoints, written once a session; a test that plants a fault takes a copy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ALGOS = (None, "FP8", "NVFP4")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], Path]:
    """The directory of the tiny model in BF16's place (fp32), FP8 or NVFP4. To be read only."""
    pytest.importorskip("torch")
    from workers.engine.checkpoint import configs
    from workers.engine.checkpoint.drawn import Drawn
    from workers.engine.checkpoint.write import write

    there: dict[str | None, Path] = {}

    def directory(algo: str | None = None) -> Path:
        if algo not in there:
            there[algo] = tmp_path_factory.mktemp(f"tiny-{algo}")
            write(Drawn(configs.tiny(), algo), there[algo])
        return there[algo]

    return directory


@pytest.fixture
def copied(tiny: Callable[[str | None], Path], tmp_path: Path) -> Callable[[str | None], Path]:
    """A copy of such a directory, for a fault to be planted in."""
    return lambda algo=None: shutil.copytree(tiny(algo), tmp_path / "copy")
