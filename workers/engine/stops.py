"""Texts that end an answer, found across the pieces in which it comes.

Text that may become a stop is held back until it cannot, so nobody sees the beginning of one. The name of a control
token counts as text, and a token is never cut.
"""

from collections.abc import Sequence

from workers.engine.tokenizer import Control


class Stops:
    """The stop texts of one answer.

    Attributes:
        found: the one that ended it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held: list[str] = []
        self.found: str | None = None

    def push(self, pieces: Sequence[str]) -> list[str]:
        """What may be shown now that these have come. Nothing more once a stop was found."""
        if not self._stops or self.found is not None:
            return [] if self.found is not None else list(pieces)
        self._held += pieces
        text = "".join(self._held)
        hits = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if hits:
            # The earliest, and of two that begin together the longer.
            at, self.found = min(hits, key=lambda hit: (hit[0], -len(hit[1])))
            shown, self._held = _cut(self._held, at)[0], []
            return shown
        shown, self._held = _cut(self._held, len(text) - self._beginning(text))
        return shown

    def finish(self) -> list[str]:
        """What was held back and became no stop."""
        shown, self._held = self._held, []
        return shown

    def _beginning(self, text: str) -> int:
        """Length of the longest end of `text` that a stop begins with."""
        longest = max(map(len, self._stops)) - 1
        ends = range(min(longest, len(text)), 0, -1)
        return next((length for length in ends if any(stop.startswith(text[-length:]) for stop in self._stops)), 0)


def _cut(pieces: list[str], length: int) -> tuple[list[str], list[str]]:
    """Pieces of the first `length` characters, and the rest. A control token goes whole into the rest."""
    for at, piece in enumerate(pieces):
        if length < len(piece):
            parts = ([], [piece]) if isinstance(piece, Control) else ([piece[:length]], [piece[length:]])
            head, tail = (list(filter(None, part)) for part in parts)
            return pieces[:at] + head, tail + pieces[at + 1 :]
        length -= len(piece)
    return pieces, []
