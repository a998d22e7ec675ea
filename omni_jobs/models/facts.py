"""What the workers know of a checkpoint, asked in a process of its own: the service never imports them."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omni_jobs.errors import Unavailable, UsageError

# The digest reads some thousand places of a disk that may be slow.
TIMEOUT_S = 600


def survey(directory: Path) -> dict[str, Any]:
    """Every tensor's name and shape, what is wrong, the digest, what fits beside it; loads nothing.

    Raises:
        UsageError: it is no checkpoint at all.
        Unavailable: the survey could not be made.
    """
    return _answer(_asked("survey", str(directory.absolute()), about=str(directory)))


def forecast(directory: Path, weights_bytes: int) -> dict[str, Any]:
    """`format`, `kv_cache` and `card` of weights of that size, from config.json alone.

    Raises:
        UsageError: the configuration is absent, or names another model.
        Unavailable: the workers do not load.
    """
    return _answer(forecasts([(directory, weights_bytes)])[0])


def forecasts(asked: Sequence[tuple[Path, int]]) -> list[dict[str, Any]]:
    """As `forecast`, of several, in one process; where one cannot be made its entry is `{"error": {"message"}}`.

    Raises:
        Unavailable: the workers do not load.
    """
    if not asked:
        return []
    given = [{"directory": str(directory), "weights_bytes": size_bytes} for directory, size_bytes in asked]
    return _asked("forecast", about="the configuration", given=json.dumps(given))


def _asked(program: str, *words: str, about: str, given: str = "") -> Any:
    command = [sys.executable, "-m", f"workers.engine.checkpoint.{program}", *words]
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{about}: not read within {TIMEOUT_S} s") from error
    except (OSError, ValueError) as error:
        raise Unavailable("the checkpoint cannot be looked at: the workers do not load") from error


def _answer(found: dict[str, Any]) -> dict[str, Any]:
    if "error" in found:
        raise UsageError(found["error"]["message"])
    return found
