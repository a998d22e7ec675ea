"""What the arguments of `run` mean: files, folders, globs."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from omni_jobs.errors import UsageError
from omni_jobs.intake.names import SUFFIXES


def expand(arguments: Iterable[str]) -> list[Path]:
    """Absolute paths of all files meant, in the order of the arguments, and of folders that cannot be read.

    Raises:
        UsageError: a path that is not there, a folder or a glob without media. Nothing has been submitted then.
    """
    return [path for argument in arguments for path in _expand_one(argument)]


def _expand_one(argument: str) -> list[Path]:
    path = Path(argument).expanduser()
    if os.path.lexists(path):
        return _media_below(path) if path.is_dir() else [_absolute(path)]
    if "://" in argument:
        raise UsageError(f"{argument} is no file of this machine: use `omni-jobs submit {argument}`")
    if glob.has_magic(argument):
        return _matches(argument)
    raise UsageError(f"no such file or folder: {argument}")


def _media_below(folder: Path) -> list[Path]:
    found = list(_walk(folder))
    if not found:
        raise UsageError(f"no audio, video, image or PDF in {folder} (hidden files are left out)")
    return found


def _matches(pattern: str) -> list[Path]:
    """As a shell would expand it: folders among the matches are taken with all they hold."""
    found: dict[tuple[str, str], Path] = {}
    for name in sorted(glob.glob(os.path.expanduser(pattern), recursive=True)):
        path = Path(name)
        for each in _walk(path) if path.is_dir() else [_absolute(path)]:
            # `**` follows links to folders, also in a circle: the first way to a file counts.
            found.setdefault((os.path.realpath(each.parent), each.name), each)
    if not found:
        raise UsageError(f"no file matches {pattern}")
    return list(found.values())


def _walk(folder: Path) -> Iterator[Path]:
    """What is called like media, readable or not, and folders that cannot be looked into: nothing is left out unsaid.

    A file that is named outright is taken whatever it is called; the suffix counts only for what a folder holds.
    """
    locked: list[Path] = []
    # Links to folders are not followed: they may lead in a circle.
    for place, folders, names in os.walk(folder, onerror=lambda error: locked.append(Path(error.filename))):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES:
                yield _absolute(path)
    yield from map(_absolute, locked)


def _absolute(path: Path) -> Path:
    """As it was given: links stay, `..` goes."""
    return Path(os.path.abspath(path))
