"""What one step does, in whole numbers: which positions of which sequences, and which encoder passes."""

from dataclasses import dataclass

from workers.engine.sequence import Item, Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """`count` positions of a sequence from `start` on.

    Attributes:
        decodes: one position, whose token is the last one sampled and lies on the device.
        samples: the next token is sampled from the last of these positions.
        window_len: rows in the window of its Mamba states before this one.
    """

    sequence: Sequence
    start: int
    count: int
    decodes: bool
    samples: bool
    window_len: int = 0

    @property
    def end(self) -> int:
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class Pass:
    """One part of a media item through its encoder. Its rows may be read from the next step on."""

    sequence: Sequence
    item: Item
    part: int

    @property
    def flop(self) -> int:
        return self.item.media.parts[self.part].flop

    @property
    def last(self) -> bool:
        return self.part + 1 == len(self.item.media.parts)


@dataclass(frozen=True, slots=True)
class Plan:
    """One step.

    Attributes:
        number: counts the steps of an engine.
        rows: decoding ones first.
        passes: in the order in which they run.
    """

    number: int
    rows: tuple[Row, ...]
    passes: tuple[Pass, ...]

    def __bool__(self) -> bool:
        return bool(self.rows or self.passes)

    @property
    def decodes(self) -> int:
        return sum(row.decodes for row in self.rows)

    @property
    def tokens(self) -> int:
        return sum(row.count for row in self.rows)

    @property
    def sequences(self) -> list[Sequence]:
        """Everyone whose state the step touches, each once."""
        return list(dict.fromkeys([row.sequence for row in self.rows] + [one.sequence for one in self.passes]))
