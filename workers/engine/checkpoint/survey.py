"""Looks at a directory before anything is loaded, and prints what it found as one JSON document.

    python -m workers.engine.checkpoint.survey DIR

Needs no torch; with it, it knows the card that is here.
"""

import json
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from workers.engine.checkpoint.card import fits
from workers.engine.checkpoint.digest import digest_of
from workers.engine.checkpoint.directory import Directory
from workers.engine.checkpoint.errors import Problem, summary
from workers.engine.checkpoint.expected import Part, table
from workers.engine.checkpoint.verify import formats_of, problems_of
from workers.engine.quant import Format
from workers.engine.sections import ConfigError

LISTED = 100  # problems in the document; all are counted


def survey(path: Path) -> dict[str, Any]:
    """What lies in the directory, what is wrong with it, and what fits beside it.

    Raises:
        ConfigError: it is no directory, or its configuration or index cannot be meant.
    """
    directory = Directory.open(path)
    formats = formats_of(directory.config, directory.stored)
    problems = problems_of(directory, formats)
    return {
        "directory": str(path),
        "whole": not problems,
        "problem_count": len(problems),
        "summary": summary(problems),
        "problems": [_listed(one) for one in problems[:LISTED]],
        "digest": digest_of(directory),
        "format": narrowest(formats.values()),
        "linear_layers": dict(Counter(format.value for format in formats.values())),
        "kv_cache": "FP8" if directory.config.quant.kv_fp8 else directory.config.torch_dtype,
        "tensors": len(directory.stored),
        "files": len(directory.files),
        "size_bytes": directory.size_bytes,
        "parameters": sum(one.parameters for one in table(directory.config, formats.__getitem__).values()),
        "parts": _parts(directory),
        "card": fits(directory.config, directory.size_bytes),
    }


def _listed(problem: Problem) -> dict[str, str]:
    return {"kind": problem.fault.name.lower(), "name": problem.name, "detail": problem.detail}


def narrowest(found: Collection[Format]) -> str:
    """The format that a repository is called by: NVIDIA's NVFP4 one holds FP8 and dense layers too."""
    return next((one.value for one in (Format.NVFP4, Format.FP8) if one in found), Format.DENSE.value)


def _parts(directory: Directory) -> list[dict[str, Any]]:
    tensors, sizes = Counter(), Counter()
    for name, one in directory.stored.items():
        tensors[name.partition(".")[0]] += 1
        sizes[name.partition(".")[0]] += one.size_bytes
    return [{"part": part.value, "tensors": tensors[part], "size_bytes": sizes[part]} for part in Part]


def main() -> None:
    try:
        found = survey(Path(sys.argv[1]))
    except ConfigError as error:
        found = {"error": {"message": str(error)}}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
