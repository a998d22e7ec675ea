"""Writes a directory as the official ones are, the index last. One tensor is in memory at a time.

A directory whose writing broke off has no index, and is not taken for a whole one.

As a program it writes one to play with:

    python -m workers.engine.checkpoint.write DIR [--size tiny|slice] [--algo FP8|NVFP4] [--seed N]
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch

from workers.engine.checkpoint import configs
from workers.engine.checkpoint.directory import INDEX
from workers.engine.checkpoint.drawn import Drawn
from workers.engine.checkpoint.shards import ITEM_BYTES
from workers.engine.tekken import tokenizer_json


def write(source: Drawn, path: Path, shards: int = 2) -> None:
    """Writes every tensor of `source` into about `shards` files of like size, and the files beside them.

    Raises:
        FileExistsError: the directory is there and holds something.
    """
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise FileExistsError(f"{path}: expected an empty directory")
    _dump(path / "config.json", source.raw)
    _dump(path / "generation_config.json", configs.generation_config())
    _dump(path / "preprocessor_config.json", configs.preprocessor_config(source.raw))
    if "quantization_config" in source.raw:
        _dump(path / "hf_quant_config.json", configs.hf_quant_config(source.raw["quantization_config"]))
    _write_tokenizer(path)
    parts = list(_split(source, shards))
    weight_map = {}
    for at, names in enumerate(parts, 1):
        file = f"model-{at:05}-of-{len(parts):05}.safetensors"
        with open(path / file, "wb") as out:
            _write_shard(source, names, out)
        weight_map |= dict.fromkeys(names, file)
    total = sum(_size(source, name) for name in weight_map)
    _dump(path / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def _write_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    _dump(path / "tokenizer_config.json", configs.tokenizer_config())
    _dump(path / "special_tokens_map.json", configs.special_tokens())
    (path / "chat_template.jinja").write_text(configs.chat_template(), encoding="utf-8")


def _split(source: Drawn, shards: int) -> Iterator[list[str]]:
    share = -(-sum(_size(source, name) for name in source.names) // shards)
    names, held = [], 0
    for name in source.names:
        names.append(name)
        held += _size(source, name)
        if held >= share:
            yield names
            names, held = [], 0
    if names:
        yield names


def _write_shard(source: Drawn, names: Sequence[str], out: BinaryIO) -> None:
    # Wide items first: then each tensor begins at a multiple of its item.
    names = sorted(names, key=lambda name: (-ITEM_BYTES[source.expected[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        end = at + _size(source, name)
        shape = list(source.shape(name))
        header[name] = {"dtype": source.expected[name].dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        out.write(source.tensor(name).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _size(source: Drawn, name: str) -> int:
    return ITEM_BYTES[source.expected[name].dtype] * prod(source.shape(name))


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a checkpoint of random weights.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", choices=("tiny", "slice"), default="tiny", help="slice: real sizes, about 7 GB")
    parser.add_argument("--algo", choices=("FP8", "NVFP4"), help="quantised by NVIDIA's recipe of that name")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    raw = configs.tiny() if given.size == "tiny" else configs.sliced()
    write(Drawn(raw, given.algo, seed=given.seed), given.directory, shards=2 if given.size == "tiny" else 4)


if __name__ == "__main__":
    main()
