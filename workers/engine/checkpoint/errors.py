"""What is wrong with a directory, all of it at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from omni_jobs.errors import Damaged

SHOWN = 4  # of each kind; the rest is counted


class Fault(StrEnum):
    """Kinds of fault; the value is how many of them are spoken of."""

    FILE = "files that cannot be used"
    MISSING = "tensors missing"
    LEFTOVER = "tensors that the model does not have"
    SHAPE = "tensors of another shape"
    DTYPE = "tensors of another dtype"
    VALUE = "tensors with impossible values"
    RECORD = "modules in another format than recorded"


@dataclass(frozen=True, slots=True)
class Problem:
    """
    Attributes:
        name: of the tensor, module or file.
        detail: what was expected and what came; empty where the kind says it all.
    """

    fault: Fault
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}" if self.detail else self.name


class CheckpointError(Damaged, ValueError):
    """The directory is not the model that its configuration names.

    Attributes:
        problems: every one that was found; the message counts them and shows the first of each kind.
    """

    def __init__(self, directory: Path, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{directory}: {'; '.join(summary(problems))}")


def summary(problems: Sequence[Problem]) -> list[str]:
    """A line for each kind: how many there are, and the first few."""
    lines = []
    for fault in Fault:
        ours = [one for one in problems if one.fault is fault]
        if ours:
            more = f", and {len(ours) - SHOWN} more" if len(ours) > SHOWN else ""
            lines.append(f"{len(ours)} {fault.value} ({', '.join(str(one)[:200] for one in ours[:SHOWN])}{more})")
    return lines
