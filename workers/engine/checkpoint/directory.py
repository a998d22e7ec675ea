"""A directory as it lies there: configuration, files, tensors. Reads headers only, and nothing outside of it."""

import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from workers.engine.checkpoint.errors import Fault, Problem
from workers.engine.checkpoint.shards import ShardError, Stored, read_header
from workers.engine.config import OmniConfig
from workers.engine.sections import ConfigError, read_json, section

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# A private mapping may be written to, so the kernel would set memory aside for all of it: this flag says not to.
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")


@dataclass(frozen=True)
class Directory:
    """
    Attributes:
        stored: every readable tensor by name.
        problems: files that are absent, cut short or no safetensors, or hold other tensors than the index says.
        unread: names that the index sees in a file that cannot be read; None where that file is the only one.
    """

    path: Path
    config: OmniConfig
    stored: Mapping[str, Stored]
    problems: tuple[Problem, ...]
    unread: frozenset[str] | None = frozenset()
    _maps: dict[Path, mmap.mmap] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path) -> "Directory":
        """Reads the configuration, the index and the headers.

        Raises:
            ConfigError: no configuration, or one that names another model, or an index that is none.
        """
        if not path.is_dir():
            raise ConfigError(f"{path}: expected a directory with config.json")
        config = OmniConfig.from_dir(path)
        problems: list[Problem] = []
        stored: dict[str, Stored] = {}
        unread: set[str] | None = set()
        for names, file in _files(_weight_map(path)):
            try:
                found = read_header(_inside(path, file))
            except (ShardError, OSError) as error:
                problems.append(Problem(Fault.FILE, file, _reason(error)))
                unread = None if names is None or unread is None else unread | names
                continue
            problems += _against_index(found, names, file, stored)
            stored.update((one.name, one) for one in found)
        return cls(path, config, stored, tuple(problems), None if unread is None else frozenset(unread))

    @cached_property
    def files(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(one.path for one in self.stored.values()))

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return sum(one.size_bytes for one in self.stored.values())

    def map_of(self, path: Path) -> mmap.mmap:
        """The file in memory. Private: a write would stay in this process. Closed with the last view on it."""
        if path not in self._maps:
            with open(path, "rb") as file:
                self._maps[path] = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE | NO_RESERVE)
        return self._maps[path]


def _weight_map(path: Path) -> dict[str, str] | None:
    """Tensor name to file name; None where the model is one file without an index."""
    if not (path / INDEX).exists():
        return None
    names = section(read_json(path / INDEX), "weight_map")
    for name, file in names.items():
        if not isinstance(file, str) or not FILE_NAME.fullmatch(file):
            shown = repr(file)[:80]
            raise ConfigError(f"{INDEX}: expected the name of a file in the directory for {name[:200]}, got {shown}")
    return names


def _files(weight_map: dict[str, str] | None) -> Iterator[tuple[frozenset[str] | None, str]]:
    """Each file with the names that the index sees in it."""
    if weight_map is None:
        yield None, SINGLE
        return
    by_file: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        by_file.setdefault(file, set()).add(name)
    for file in sorted(by_file):
        yield frozenset(by_file[file]), file


def _inside(path: Path, file: str) -> Path:
    """The regular file of that name. The hub's own cache keeps `snapshots/<revision>` as links into its `blobs`."""
    try:
        real = (path / file).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ShardError("expected a file, got none" if isinstance(error, FileNotFoundError) else str(error)) from error
    home = path.resolve()
    roots = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if real.parent not in roots:
        raise ShardError("expected a file in the directory, got a link that leaves it")
    if not real.is_file():
        raise ShardError("expected a regular file, got something else")
    return real


def _against_index(
    found: list[Stored], names: frozenset[str] | None, file: str, stored: Mapping[str, Stored]
) -> Iterator[Problem]:
    for one in found:
        if one.name in stored:
            yield Problem(Fault.LEFTOVER, one.name, f"in {stored[one.name].path.name} as well as in {file}")
    differing = sorted(names ^ {one.name for one in found}) if names is not None else []
    if differing:
        detail = f"{len(differing)} of its tensors are not where the index sees them, such as {differing[0][:200]}"
        yield Problem(Fault.FILE, file, detail)


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
