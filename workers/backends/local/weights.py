"""Which model it is: its directory, and who it would be as a backend. Loads nothing, and needs no torch."""

import hashlib
import json
from pathlib import Path

from omni_jobs.errors import UsageError
from omni_jobs.extras import HOW_ENGINE, has_engine
from omni_jobs.models import resolve_model
from omni_jobs.models.add import name_of
from omni_jobs.settings import Settings
from workers import prompts
from workers.backends.asking.units import NAMES
from workers.backends.backend import Identity
from workers.engine.checkpoint.digest import digest_of
from workers.engine.checkpoint.directory import Directory
from workers.engine.checkpoint.errors import CheckpointError

SHORT = 12  # hex digits of a digest, for people
# Seconds of one sequence for a second of sound or video, or a page: orders of magnitude.
COST_S = {"span": 0.05, "clip": 0.1, "page": 4.0, "reduce": 1.0}


def require_engine() -> None:
    """
    Raises:
        UsageError: the engine's packages are not installed; says how to get them.
    """
    if not has_engine():
        raise UsageError(f"the backend `local` needs the packages of the engine: {HOW_ENGINE}", kind="unsupported")


def directory_of(settings: Settings) -> Path:
    """Where the weights lie: of a model that `omni-jobs model add` knows, or a directory.

    Raises:
        UsageError: the settings name none.
        NotFound: neither a model nor a directory is named so.
        Refused, Damaged: it is not whole, or not what was added.
    """
    if not settings.model:
        raise UsageError(
            "the backend `local` needs OMNI_MODEL: a name of `omni-jobs model list`, or a directory with the model's"
            " config.json and weights"
        )
    return resolve_model(settings)


def identity(settings: Settings) -> Identity:
    """Who would answer. Reads some thousand places of the weights.

    Raises:
        UsageError: no model is named.
        ConfigError, CheckpointError: the directory holds another one, or not all of it.
    """
    path = directory_of(settings)
    directory = Directory.open(path)
    if directory.problems:
        raise CheckpointError(path, list(directory.problems))
    return identity_with(settings, digest_of(directory))


def identity_with(settings: Settings, weights: str) -> Identity:
    """The model by its name and the digest of its weights; the digest of all that shapes an answer."""
    facts = {
        "prompts": prompts.VERSION,
        "weights": weights,
        "frames": settings.model_frames,
        "max_tokens": settings.model_max_tokens,
        "reasoning": settings.model_reasoning,
        "language": settings.model_language,
    }
    model = f"{name_of(settings.model)} {weights[:SHORT]}"
    models = dict.fromkeys(sorted(NAMES.values()), model) | {"prompts": prompts.VERSION}
    return Identity("local", models, hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(), COST_S)
