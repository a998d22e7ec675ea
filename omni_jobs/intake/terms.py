"""What a watcher asks for every file it takes in."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from omni_jobs.moments import moment_of
from omni_jobs.options import Options


@dataclass(frozen=True, slots=True)
class Terms:
    """`deadline` is a moment, or a while such as `+2h` that counts from when a file is taken in."""

    priority: int = 0
    deadline: str = ""
    on_gap: Literal["partial", "fail"] = "partial"

    def fields(self) -> dict[str, Any]:
        """As fields of a `Submission` that is made now.

        Raises:
            UsageError: the deadline is none, or has passed.
        """
        due = datetime.fromisoformat(moment_of(self.deadline, "--deadline")) if self.deadline else None
        return {"priority": self.priority, "deadline": due, "options": Options(on_gap=self.on_gap)}


NONE = Terms()
