"""What a process counts of itself. The totals go to its row with each heartbeat, so they outlive it."""

import threading


class Counters:
    """Rising numbers by name and labels; threads may share it."""

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to `name{label="value",...}`: the key is the series as Prometheus writes it."""
        said = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
        series = f"{name}{{{said}}}" if said else name
        with self._lock:
            self._totals[series] = self._totals.get(series, 0.0) + amount

    def totals(self) -> dict[str, float]:
        with self._lock:
            return dict(self._totals)
