"""What a fault test counted."""

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    name: str
    counts: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    quiet: bool = True  # nothing else is tested at the same time

    def bar(self, name: str, value: float, most: float) -> None:
        """Count a time, or a ratio of times, that may not be more; beside other tests it says nothing and is no bar."""
        self.say(**{name: value})
        assert value <= most or not self.quiet, f"{name}: {value:.3g}, the most is {most:.3g}"

    def say(self, **counts: Any) -> None:
        self.counts |= counts

    def line(self) -> str:
        said = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in self.counts.items())
        return f"{self.name.removeprefix('test_'):44} {said} ({self.seconds:.0f} s)"


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
