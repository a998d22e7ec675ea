"""Paragraphs of a page: pieces side by side make a line, lines close below each other a paragraph."""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence

from workers.backends.embedded.pieces import Piece, beside, share_row, shared_width, union

CLOSE = 0.6  # in font sizes: no gutter is as narrow as this
SENTENCE = 1.2  # in font sizes: as wide grows the space after a full stop in a justified line
BULLET = re.compile(r"^(?:[•‣▪●○◦■□–—*·▶►\-\uf0b7]|\(?(?:\d{1,2}|[a-zA-Z]|[ivx]{1,4})[.)])\s+\S")


class Line:
    """Pieces of one line, with what decides whether the next one carries it on."""

    def __init__(self, pieces: list[Piece]) -> None:
        longest = max(pieces, key=lambda p: len(p.text))
        self.pieces = pieces
        self.box = union(p.box for p in pieces)
        self.middle = (self.box[1] + self.box[3]) / 2
        self.size, self.bold = longest.size, longest.bold

    def __str__(self) -> str:
        return " ".join(p.text for p in self.pieces)


def paragraphs_of(pieces: Sequence[Piece], *, check: Callable[[], object] = lambda: None) -> list[list[Line]]:
    """Paragraphs from the top, each with its lines."""
    lines = sorted((Line(line) for line in _lines(pieces, check)), key=lambda line: (line.middle, line.box[0]))
    middles = [line.middle for line in lines]
    below: dict[int, int] = {}
    for k, line in enumerate(lines):
        check()
        last = bisect_right(middles, line.middle + 2.4 * line.size)
        n = _next_below(line, lines[k + 1 : last])
        if n is not None:
            below[k] = k + 1 + n
    claimed = Counter(below.values())
    follows = {k: n for k, n in below.items() if claimed[n] == 1}
    inner = set(follows.values())
    paragraphs = []
    for start in range(len(lines)):
        if start not in inner:
            chain, k = [lines[start]], start
            while k in follows:
                k = follows[k]
                chain.append(lines[k])
            paragraphs.append(chain)
    return paragraphs


def _lines(pieces: Sequence[Piece], check: Callable[[], object]) -> list[list[Piece]]:
    """Pieces side by side joined into lines where no gutter between columns parts them."""
    field = _Field(pieces)
    right = {}
    for a in pieces:
        check()
        after = [b for b in field.near(a, 1.0) if b.box[0] + b.box[2] > a.box[0] + a.box[2] and beside(a, b)]
        if after:
            right[id(a)] = min(after, key=lambda b: b.box[0])
    claims = Counter(id(b) for b in right.values())
    joined = {
        id(a): b
        for a in pieces
        if (b := right.get(id(a))) and claims[id(b)] == 1 and _one_line(a, b, field.near(a, 2.2))
    }
    inner = {id(b) for b in joined.values()}
    lines = []
    for piece in pieces:
        if id(piece) not in inner:
            line = [piece]
            while id(line[-1]) in joined:
                line.append(joined[id(line[-1])])
            lines.append(line)
    return lines


class _Field:
    """Pieces by height on the page, to find those near one of them."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._sorted = sorted(pieces, key=lambda p: p.middle)
        self._middles = [p.middle for p in self._sorted]

    def near(self, piece: Piece, sizes: float) -> list[Piece]:
        """Pieces whose middle lies within so many font sizes of this one's."""
        reach = sizes * piece.size
        low = bisect_left(self._middles, piece.middle - reach)
        high = bisect_right(self._middles, piece.middle + reach)
        return [p for p in self._sorted[low:high] if p is not piece]


def _one_line(a: Piece, b: Piece, near: Sequence[Piece]) -> bool:
    """Whether the gap between two pieces of a row is a wide space and not a gutter.

    The lines right above and below tell: one that runs across the gap closes it, two that end at it open it.
    """
    gap, size = b.box[0] - a.box[2], max(a.size, b.size)
    if gap > 3 * size or a.stands != b.stands:
        return False
    if gap < (SENTENCE if a.block == b.block >= 0 else CLOSE) * size:
        return True
    bridge = [p for p in near if p.box[0] < a.box[2] - size and p.box[2] > b.box[0] + size]
    for side in (-1, 1):
        row = [p for p in near if (p.middle - a.middle) * side > 0.6 * size and not p.stands]
        bridged = any(p in bridge for p in row)
        left = any(a.box[0] < p.box[2] <= b.box[0] - 0.2 * size for p in row)
        right = any(b.box[2] > p.box[0] >= a.box[2] + 0.2 * size for p in row)
        if not bridged and left and right:
            return False
    return gap < 1.6 * size or bool(bridge)


def _next_below(line: Line, lower: Sequence[Line]) -> int | None:
    """Which of the lines close below carries on the same paragraph."""
    reach = [
        n for n, other in enumerate(lower) if other.middle > line.middle and shared_width(line.box, other.box) > 0.4
    ]
    if not reach or line.pieces[0].stands:
        return None
    nearest = lower[reach[0]]
    if any(share_row(lower[n].box, nearest.box) for n in reach[1:]):
        return None
    close = nearest.box[1] - line.box[3] <= 0.75 * max(line.size, nearest.size)
    alike = 0.8 < line.size / nearest.size < 1.25 and line.bold == nearest.bold
    return reach[0] if close and alike and not BULLET.match(nearest.pieces[0].text) else None
