"""Our own programs beside the servers: the API, the workers, the watchers."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from omni_jobs.embedded.state import State
from omni_jobs.settings import Settings

POOLS = ("cpu", "gpu", "io", "maintain")


class Role(IntEnum):
    """In the order in which they are stopped."""

    API = 0
    WATCHER = 1
    WORKER = 2


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    role: Role
    argv: tuple[str, ...]


def our_programs(pools: Sequence[str] = POOLS, watch: Sequence[str] = (), *, api: bool = True) -> list[Program]:
    python = sys.executable
    programs = [Program("api", Role.API, (python, "-m", "omni_jobs.api"))] if api else []
    programs += [Program(f"worker-{pool}", Role.WORKER, (python, "-m", "workers", pool)) for pool in pools]
    programs += [
        Program(f"watch-{number}", Role.WATCHER, (python, "-m", "omni_jobs.intake", "watch", target))
        for number, target in enumerate(watch, start=1)
    ]
    return programs


def settings_environment(settings: Settings) -> dict[str, str]:
    """The variables that give another process the settings that were given to this one."""
    given = {name: getattr(settings, name) for name in sorted(settings.model_fields_set)}
    return {f"OMNI_{name.upper()}": _text(value) for name, value in given.items() if value is not None}


def program_environment(
    ours: Mapping[str, str], settings: Settings, state: State, *, home: Path, key: str, api_port: int
) -> dict[str, str]:
    """The environment of our programs: this process's, its settings, and where the parts are."""
    return {
        **ours,
        **settings_environment(settings),
        "OMNI_HOME": str(home),
        "OMNI_DATABASE_URL": state.database_url,
        "OMNI_BROKER_URL": state.broker_url,
        "OMNI_BLOB_URL": state.blob_url,
        "OMNI_S3_ENDPOINT": state.s3_endpoint,
        "OMNI_S3_ACCESS_KEY": state.s3_access_key,
        "OMNI_S3_SECRET_KEY": state.s3_secret_key,
        "OMNI_API_PORT": str(api_port),
        "OMNI_API_URL": state.api_url,
        "OMNI_API_KEY": key,
    }


def _text(value: object) -> str:
    """A setting as `Settings` reads it back."""
    if isinstance(value, tuple):
        separator = ":" if any(isinstance(item, Path) for item in value) else ","
        return separator.join(map(str, value))
    return str(value)
