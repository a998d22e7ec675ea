"""Pieces of text, the words that no step of the layout takes apart, and how two of them lie to each other.

In points, with the origin top left.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from workers.answers import Box
from workers.inputs import PageWord

WORD_GAP = 1.0  # in font sizes: a wider gap inside a line may part columns
ROW_OVERLAP = 0.5
THIN, SHORTEST_RULE = 2.5, 8.0  # points: a drawn line is no wider, and no shorter


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of words that is never cut: part of a line up to a wide gap."""

    box: Box
    text: str
    size: float  # font size, or height of the line
    bold: bool = False
    score: float | None = None
    block: int = -1  # of the text layer: where its maker saw one paragraph, -1 unknown

    @property
    def middle(self) -> float:
        """Halfway down."""
        return (self.box[1] + self.box[3]) / 2

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]

    @property
    def center(self) -> float:
        """Halfway across."""
        return (self.box[0] + self.box[2]) / 2

    @property
    def words(self) -> int:
        return len(self.text.split())

    @property
    def stands(self) -> bool:
        """Whether the text runs up or down the page."""
        x0, y0, x1, y1 = self.box
        return len(self.text) > 2 and y1 - y0 > 2 * (x1 - x0)


def pieces_of(words: Sequence[PageWord], rulings: Sequence[Box] = ()) -> list[Piece]:
    """Words of a text layer as pieces; words of one line stay in the order of the layer (right-to-left text)."""
    upright = sorted(box for box in rulings if box[2] - box[0] <= THIN and box[3] - box[1] >= SHORTEST_RULE)
    runs: list[list[PageWord]] = []
    for word in words:
        last = runs[-1][-1] if runs else None
        if last and (last.block, last.line) == (word.block, word.line) and _one_run(last, word, upright):
            runs[-1].append(word)
        else:
            runs.append([word])
    return [_piece(run) for run in runs]


def _one_run(a: PageWord, b: PageWord, upright: Sequence[Box]) -> bool:
    if _gap(a, b) >= WORD_GAP * _size(b):
        return False
    left, right = (a, b) if a.x0 <= b.x0 else (b, a)
    middle = (b.y0 + b.y1) / 2
    between = slice(
        bisect_left(upright, left.x1 - 1, key=lambda box: box[0]),
        bisect_right(upright, right.x0 + 1, key=lambda box: box[0]),
    )
    return not any(y0 < middle < y1 for _, y0, _, y1 in upright[between])


def _gap(a: PageWord, b: PageWord) -> float:
    """Space between two words along the line, whichever way it runs; negative where they overlap."""
    return max(b.x0 - a.x1, a.x0 - b.x1, b.y0 - a.y1, a.y0 - b.y1)


def _size(word: PageWord) -> float:
    return word.size_pt or min(word.y1 - word.y0, word.x1 - word.x0) or 1.0


def _piece(run: Sequence[PageWord]) -> Piece:
    return Piece(
        union((word.x0, word.y0, word.x1, word.y1) for word in run),
        " ".join(word.text for word in run),
        median(_size(word) for word in run),
        sum(word.bold for word in run) * 2 > len(run),
        block=run[0].block,
    )


def rows_of(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces that stand side by side, row by row from the top, each row from the left."""
    rows: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda p: (p.middle, p.box[0])):
        row = next((row for row in reversed(rows[-4:]) if all(beside(piece, other) for other in row)), None)
        if row is None:
            rows.append([piece])
        else:
            row.append(piece)
    return [sorted(row, key=lambda p: p.box[0]) for row in rows]


def beside(a: Piece, b: Piece) -> bool:
    """Whether two pieces share a row and do not cover each other."""
    apart = max(b.box[0] - a.box[2], a.box[0] - b.box[2])
    return share_row(a.box, b.box) and apart > -0.3 * min(a.size, b.size)


def body_size(pieces: Sequence[Piece]) -> float:
    """The font size that most characters have."""
    counts: Counter[float] = Counter()
    for piece in pieces:
        counts[round(piece.size * 2) / 2] += len(piece.text)
    return max(counts, key=lambda size: (counts[size], -size)) if counts else 1.0


def mean_score(pieces: Sequence[Piece]) -> float | None:
    """Mean confidence, weighted by length; None for a text layer."""
    known = [(p.score, len(p.text)) for p in pieces if p.score is not None]
    return round(sum(s * n for s, n in known) / sum(n for _, n in known), 4) if known else None


def union(boxes: Iterable[Box]) -> Box:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def shared_width(a: Box, b: Box) -> float:
    """Common width as a part of the narrower box."""
    return (min(a[2], b[2]) - max(a[0], b[0])) / max(min(a[2] - a[0], b[2] - b[0]), 1e-6)


def share_row(a: Box, b: Box) -> bool:
    return min(a[3], b[3]) - max(a[1], b[1]) > ROW_OVERLAP * min(a[3] - a[1], b[3] - b[1])
