"""The digest names the weights, not the way they lie on the disk."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from tests.workers.engine.checkpoint.conftest import ALGOS  # noqa: E402
from tests.workers.engine.checkpoint.planted import Tensors, edit  # noqa: E402
from workers.engine.checkpoint import configs  # noqa: E402
from workers.engine.checkpoint.digest import PIECE_BYTES  # noqa: E402
from workers.engine.checkpoint.drawn import Drawn  # noqa: E402
from workers.engine.checkpoint.reader import Checkpoint  # noqa: E402
from workers.engine.checkpoint.write import write  # noqa: E402

Directory = Callable[..., Path]
BIG = "language_model.lm_head.weight"  # 480 KiB


def digest(directory: Path) -> str:
    return Checkpoint.open(directory).digest


def test_other_files_same_digest(tiny: Directory, tmp_path: Path) -> None:
    write(Drawn(configs.tiny()), tmp_path, shards=5)
    assert len(list(tmp_path.glob("*.safetensors"))) == 5
    assert digest(tmp_path) == digest(tiny())
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(dict(reversed(raw.items()))))
    assert digest(tmp_path) == digest(tiny())


def test_other_formats_seeds_and_settings_have_other_digests(tiny: Directory, tmp_path: Path) -> None:
    write(Drawn(configs.tiny(), seed=1), tmp_path)
    found = {digest(tiny(algo)) for algo in ALGOS} | {digest(tmp_path)}
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"video_pruning_rate": 0.5}))
    found.add(digest(tmp_path))
    assert len(found) == 5 and all(len(one) == 64 for one in found)


@pytest.mark.parametrize("place", ["small", "first", "middle", "last"])
def test_one_byte_of_what_is_read_changes_it(copied: Directory, tiny: Directory, place: str) -> None:
    directory = copied()

    def change(tensors: Tensors) -> None:
        tensor = tensors["mlp1.0.weight" if place == "small" else BIG].view(-1)
        at = {"small": 5, "first": 1, "middle": len(tensor) // 2, "last": len(tensor) - 1}[place]
        tensor[at] += 1

    edit(directory, change)
    assert digest(directory) != digest(tiny())


def test_between_the_pieces_nothing_is_read(copied: Directory, tiny: Directory) -> None:
    # What the module's text says of itself; a proof of every byte is not what this is.
    directory = copied()
    edit(directory, lambda tensors: tensors[BIG].view(-1)[2 * PIECE_BYTES].add_(1))
    assert digest(directory) == digest(tiny())
