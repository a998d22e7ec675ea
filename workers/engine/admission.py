"""Who is let in next: first come, first served, with a bounded right to pass.

A sequence enters when its whole reservation is free. When the first in line does not fit, those behind who do may pass
it, but only `patience` times: then nobody enters before it, and because every running sequence ends, what they give
back is enough for it at last. So a large request waits a bounded number of admissions, and small ones do not all wait
for it.
"""

from collections import deque
from collections.abc import Iterator

from workers.engine.memory.reservation import Memory
from workers.engine.sequence import Sequence

REACH = 64  # how far down the line one looks for somebody who fits


class Line:
    """The sequences that wait."""

    def __init__(self, patience: int = 32) -> None:
        if patience < 0:
            raise ValueError(f"expected a patience of at least 0, got {patience}")
        self._patience = patience
        self._waiting: deque[Sequence] = deque()
        self._passed = 0  # how many have passed the present first

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def join(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def rejoin(self, sequences: list[Sequence]) -> None:
        """They were in already and begin again: back to the front, in the order of arrival."""
        self._waiting.extendleft(sorted(sequences, key=lambda one: one.arrival, reverse=True))
        self._passed = 0

    def leave(self, sequence: Sequence) -> None:
        if self._waiting[0] is sequence:
            self._passed = 0
        self._waiting.remove(sequence)

    def admit(self, memory: Memory) -> list[Sequence]:
        """Lets in whoever may enter now, each with its reservation."""
        entered: list[Sequence] = []
        while (sequence := self._next(memory)) is not None:
            self._passed = 0 if sequence is self._waiting[0] else self._passed + 1
            self._waiting.remove(sequence)
            sequence.held = memory.reserve(sequence.need)
            entered.append(sequence)
        return entered

    def _next(self, memory: Memory) -> Sequence | None:
        if not memory.slots.free:
            return None
        reach = REACH if self._passed < self._patience else 1
        candidates = (self._waiting[at] for at in range(min(reach, len(self._waiting))))
        return next((one for one in candidates if memory.fits(one.need)), None)
