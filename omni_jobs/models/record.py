"""What is written down of a model, and how it compares with what lies there."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class State(StrEnum):
    WHOLE = "whole"
    PARTIAL = "partial"  # a download goes on, or broke off; or what came is not the model
    CHANGED = "changed"  # a file is gone, or has another size than when it was added


@dataclass(frozen=True, slots=True)
class ModelFile:
    """
    Attributes:
        sha256: 64 hex digits; empty where they are not known yet.
        git_sha1: of the file as a git blob: all that a hub says of its small files before they are here.
    """

    name: str
    size_bytes: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """
    Attributes:
        source: `hf:OWNER/NAME`, or the directory that was named.
        directory: where the files lie.
        whole: every file came with its size and digest, and the checkpoint is the model.
        revision: the hub's commit; empty for a directory.
        format: `dense`, `FP8` or `NVFP4`.
        digest: of the weights, as `doctor --checkpoint` says it; empty until they are whole.
        weights_bytes: of the tensors' files.
    """

    name: str
    source: str
    directory: Path
    format: str
    files: tuple[ModelFile, ...]
    weights_bytes: int
    whole: bool = False
    revision: str = ""
    digest: str = ""

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def held_bytes(self) -> int:
        """What is here, files under way included."""
        return held_bytes(self.directory, self.files)

    @property
    def state(self) -> State:
        if not self.whole:
            return State.PARTIAL
        return State.CHANGED if any(self.changes()) else State.WHOLE

    def changes(self) -> Iterator[str]:
        """Sentences about files that are not as they were when the model was added; sizes only."""
        for file in self.files:
            found = _size(self.directory / file.name)
            if found != file.size_bytes:
                came = "no such file" if found is None else f"{found:,}"
                yield f"{file.name}: expected {file.size_bytes:,} bytes, got {came}"


def part_of(path: Path) -> Path:
    """Where a file lies until it is whole."""
    return path.with_name(f"{path.name}.part")


def held_bytes(directory: Path, files: tuple[ModelFile, ...]) -> int:
    """Of these files, what is here of each, and at most its size."""
    return sum(min(file.size_bytes, _held(directory / file.name)) for file in files)


def _held(path: Path) -> int:
    return max(_size(path) or 0, _size(part_of(path)) or 0)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
