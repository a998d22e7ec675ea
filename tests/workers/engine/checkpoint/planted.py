"""Changes to a checkpoint directory, made with the official library: ours has no part in writing it."""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

INDEX = "model.safetensors.index.json"
Tensors = dict[str, Tensor]


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


def edit(directory: Path, change: Callable[[Tensors], object]) -> None:
    """Hands all tensors to `change` and writes what it leaves of them, each where it was, with an index that fits."""
    files = {path.name: load_file(path) for path in shards(directory)}
    homes = {name: file for file, tensors in files.items() for name in tensors}
    tensors = {name: tensor for held in files.values() for name, tensor in held.items()}
    change(tensors)
    last = max(files)
    for file in files:
        ours = {name: tensor.contiguous() for name, tensor in tensors.items() if homes.get(name, last) == file}
        save_file(ours, directory / file)
    weight_map = {name: homes.get(name, last) for name in tensors}
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
