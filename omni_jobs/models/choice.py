"""Which files of a repository are the model. Data only: no code, no pickles, nothing in folders."""

import json
import re
from collections.abc import Sequence
from typing import Any

from omni_jobs.errors import UsageError
from omni_jobs.models.record import ModelFile

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
# What says how large the model is and what it needs, before it is here.
HEADS = (CONFIG, "hf_quant_config.json", INDEX)
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
TOKENIZER = ("tokenizer.model", "merges.txt", "vocab.txt")
SMALL_BYTES = 64 << 20


class NoCheckpoint(UsageError):
    """The repository holds no weights that we can read."""


def heads(files: Sequence[ModelFile]) -> list[ModelFile]:
    """What is fetched first.

    Raises:
        NoCheckpoint: there is no configuration, or one too large to be one.
    """
    found = [file for file in files if file.name in HEADS]
    if CONFIG not in {file.name for file in found}:
        raise NoCheckpoint(f"expected a repository with {CONFIG}, got {len(files)} other files")
    for file in found:
        if file.size_bytes > SMALL_BYTES:
            raise NoCheckpoint(f"{file.name}: expected at most {SMALL_BYTES:,} bytes, got {file.size_bytes:,}")
    return found


def shards(files: Sequence[ModelFile], index: bytes | None) -> list[ModelFile]:
    """The files of the tensors: those that the index names, or the only one.

    Raises:
        NoCheckpoint: there are none, or not all of them.
    """
    by_name = {file.name: file for file in files}
    names = sorted(_named(index)) if index is not None else [SINGLE]
    missing = [name for name in names if name not in by_name or not SAFE_NAME.fullmatch(name)]
    if missing:
        raise NoCheckpoint(f"expected weights in {missing[0]!r}, as safetensors; the repository has no such file")
    return [by_name[name] for name in names]


def wanted(files: Sequence[ModelFile], index: bytes | None) -> tuple[ModelFile, ...]:
    """Weights, configuration, tokenizer and templates.

    Raises:
        NoCheckpoint: as `shards`.
    """
    beside = [file for file in files if _is_beside(file.name) and SAFE_NAME.fullmatch(file.name)]
    return (*beside, *shards(files, index))


def _is_beside(name: str) -> bool:
    return name.endswith((".json", ".jinja")) or name in TOKENIZER


def _named(index: bytes) -> set[str]:
    try:
        found: Any = json.loads(index)["weight_map"]
        names = set(found.values())
        valid = all(isinstance(name, str) and name.endswith(".safetensors") for name in names)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise NoCheckpoint(f"{INDEX}: expected the files of the tensors under weight_map") from error
    if not names or not valid:
        raise NoCheckpoint(f"{INDEX}: expected names of safetensors files under weight_map")
    return names
