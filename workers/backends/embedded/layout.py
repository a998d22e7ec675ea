"""From pieces of text with boxes to the blocks of a page: lines, paragraphs, tables, running heads.

Works in points with the origin top left, on the words of a text layer and on OCR lines alike. Every piece ends in
exactly one block: nothing is dropped and nothing is doubled, whatever the geometry looks like.

A block gets a kind only where its form shows it (font size, boldness, bullets, place on the page, rulings, aligned
columns); everything else is `text`.
"""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Literal

from workers.answers import Box, PageBlock
from workers.backends.embedded.order import reading_order
from workers.inputs import PageWord

Kind = Literal["title", "heading", "text", "list", "table", "caption", "header", "footer"]

WORD_GAP = 1.0  # in font sizes: a wider gap inside a line may part columns
CLOSE = 0.6  # in font sizes: no gutter is as narrow as this
SENTENCE = 1.2  # in font sizes: as wide grows the space after a full stop in a justified line
ROW_OVERLAP = 0.5
THIN, SHORTEST_RULE = 2.5, 8.0  # points: a drawn line is no wider, and no shorter
HEAD_ROWS = 4  # of a table: no head is higher
HEAD_GAP = 0.8  # in font sizes: least white between a running head and the body
NEAR = 6.0  # points: shaded rows stop between columns by less than this
MARGIN = 0.085  # of the page's height: where running heads and page numbers stand
BULLET = re.compile(r"^(?:[•‣▪●○◦■□–—*·▶►\-\uf0b7]|\(?(?:\d{1,2}|[a-zA-Z]|[ivx]{1,4})[.)])\s+\S")
CAPTION = re.compile(r"^(?:fig(?:ure|\.)|tab(?:le|\.)|abb(?:ildung|\.)|tabelle|chart|graph)\s*[\dIVX]", re.IGNORECASE)


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
        return (self.box[1] + self.box[3]) / 2

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]

    @property
    def words(self) -> int:
        return len(self.text.split())


@dataclass(frozen=True, slots=True)
class Table:
    box: Box
    rows: tuple[tuple[tuple[Piece, ...], ...], ...]


def pieces_of(words: Sequence[PageWord], rulings: Sequence[Box] = ()) -> list[Piece]:
    """Words of a text layer as pieces; words of one line stay in the order of the layer (right-to-left text)."""
    upright = [box for box in rulings if box[2] - box[0] <= THIN and box[3] - box[1] >= SHORTEST_RULE]
    runs: list[list[PageWord]] = []
    for word in words:
        last = runs[-1][-1] if runs else None
        if last and (last.block, last.line) == (word.block, word.line) and _one_run(last, word, upright):
            runs[-1].append(word)
        else:
            runs.append([word])
    return [_piece(run) for run in runs]


def blocks_of(
    pieces: Sequence[Piece], rulings: Iterable[Box], width_pt: float, height_pt: float, *, first: bool = True
) -> list[PageBlock]:
    """Blocks of a page in reading order.

    Args:
        pieces: from `pieces_of`, or one for each line of OCR.
        width_pt: of the page.
        height_pt: of the page.
        rulings: [x0, y0, x1, y1] of drawn lines.
        first: the first page of its source, which may bear the title.
    """
    rest = [piece for piece in pieces if piece.text]
    running, rest = _running(rest, width_pt, height_pt)
    rest = _drop_caps(rest)
    tables, rest = ruled_tables(rest, list(rulings))
    more, rest = open_tables(rest)
    tables += more
    paragraphs = _paragraphs(rest)
    body_size = _body_size(rest or list(pieces))
    bodies = [_table_block(table) for table in tables]
    bodies += [_text_block(lines, body_size) for lines in paragraphs]
    ordered = [bodies[k] for k in reading_order([block.box for block in bodies], body_size)]
    if first:
        _name_title(ordered, paragraphs, body_size)
    heads = [block for block in running if block.kind == "header"]
    return heads + ordered + [block for block in running if block.kind == "footer"]


def union(boxes: Iterable[Box]) -> Box:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _one_run(a: PageWord, b: PageWord, upright: Sequence[Box]) -> bool:
    if _gap(a, b) >= WORD_GAP * _size(b):
        return False
    left, right = (a, b) if a.x0 <= b.x0 else (b, a)
    middle = (b.y0 + b.y1) / 2
    return not any(left.x1 - 1 <= x0 <= right.x0 + 1 and y0 < middle < y1 for x0, y0, _, y1 in upright)


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


def _body_size(pieces: Sequence[Piece]) -> float:
    """The font size that most characters have."""
    counts: Counter[float] = Counter()
    for piece in pieces:
        counts[round(piece.size * 2) / 2] += len(piece.text)
    return max(counts, key=lambda size: (counts[size], -size)) if counts else 1.0


def _running(pieces: Sequence[Piece], width_pt: float, height_pt: float) -> tuple[list[PageBlock], list[Piece]]:
    """Running heads, feet and notes up the side: in the margin of the page, with a clear gap to the body."""
    upright = sorted((p for p in pieces if not _stands(p)), key=lambda p: p.box[1])
    size = _body_size(upright)
    zone = height_pt * MARGIN
    found: list[tuple[Kind, list[Piece]]] = [
        ("header", [] if not upright else _before_gap(upright, zone, size)),
        ("footer", [] if not upright else _after_gap(upright, height_pt - zone, size)),
        ("footer", [p for p in pieces if _stands(p) and not 0.1 * width_pt < _center(p) < 0.9 * width_pt]),
    ]
    blocks: list[PageBlock] = []
    taken: set[int] = set()
    for kind, group in found:
        if len(group) not in range(1, 12) or any(not _stands(p) and p.size >= 1.4 * size for p in group):
            continue
        text = "\n".join(" ".join(p.text for p in row) for row in _rows(group))
        blocks.append(PageBlock(kind=kind, box=union(p.box for p in group), text=text, confidence=_score(group)))
        taken |= {id(p) for p in group}
    if len(taken) == len(pieces):
        return [], list(pieces)
    return blocks, [p for p in pieces if id(p) not in taken]


def _before_gap(upright: Sequence[Piece], zone: float, size: float) -> list[Piece]:
    """Pieces above the lowest clear gap that begins inside the top margin."""
    bottom, cut = upright[0].box[3], 0
    for k, piece in enumerate(upright):
        if bottom > zone:
            break
        if piece.box[1] - bottom > HEAD_GAP * size:
            cut = k
        bottom = max(bottom, piece.box[3])
    return list(upright[:cut])


def _after_gap(upright: Sequence[Piece], zone: float, size: float) -> list[Piece]:
    """Pieces below the highest clear gap that ends inside the bottom margin, or a page number under a short page."""
    bottom = upright[0].box[3]
    for k, piece in enumerate(upright):
        is_number = k == len(upright) - 1 and piece.text.isdecimal() and len(piece.text) <= 4
        if (piece.box[1] >= zone or is_number) and piece.box[1] - bottom > HEAD_GAP * size:
            return list(upright[k:])
        bottom = max(bottom, piece.box[3])
    return []


def _drop_caps(pieces: Sequence[Piece]) -> list[Piece]:
    """A large first letter that reaches down several lines stands on the first of them."""
    kept = []
    for piece in pieces:
        if len(piece.text) == 1 and piece.text.isalpha():
            beside = [
                p
                for p in pieces
                if 0 <= p.box[0] - piece.box[2] < piece.size
                and piece.size > 1.7 * p.size
                and piece.box[1] - p.size < p.middle < piece.box[3]
            ]
            if len(beside) > 1:
                first = min(beside, key=lambda p: p.middle)
                box = (piece.box[0], first.box[1], piece.box[2], first.box[3])
                piece = replace(piece, box=box, size=first.size)
        kept.append(piece)
    return kept


def _stands(piece: Piece) -> bool:
    """Whether the text runs up or down the page."""
    x0, y0, x1, y1 = piece.box
    return len(piece.text) > 2 and y1 - y0 > 2 * (x1 - x0)


def _rows(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces that stand side by side, row by row from the top, each row from the left."""
    rows: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda p: (p.middle, p.box[0])):
        row = next((row for row in reversed(rows[-4:]) if all(_beside(piece, other) for other in row)), None)
        if row is None:
            rows.append([piece])
        else:
            row.append(piece)
    return [sorted(row, key=lambda p: p.box[0]) for row in rows]


def _beside(a: Piece, b: Piece) -> bool:
    """Whether two pieces share a row and do not cover each other."""
    shared = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    apart = max(b.box[0] - a.box[2], a.box[0] - b.box[2])
    return shared > ROW_OVERLAP * min(a.height, b.height) and apart > -0.3 * min(a.size, b.size)


def _score(pieces: Sequence[Piece]) -> float | None:
    """Mean confidence, weighted by length; None for a text layer."""
    known = [(p.score, len(p.text)) for p in pieces if p.score is not None]
    return round(sum(s * n for s, n in known) / sum(n for _, n in known), 4) if known else None


def ruled_tables(pieces: Sequence[Piece], rulings: Sequence[Box]) -> tuple[list[Table], list[Piece]]:
    """Tables drawn as a grid of lines, and the pieces outside them."""
    tables: list[Table] = []
    rest = list(pieces)
    for xs, ys in _grids(rulings):
        inside = [p for p in rest if xs[0] - 2 <= _center(p) <= xs[-1] + 2 and ys[0] - 2 <= p.middle <= ys[-1] + 2]
        rows = _ruled_rows(inside, xs, ys)
        if _is_table(rows):
            tables.append(Table(union([(xs[0], ys[0], xs[-1], ys[-1]), *(p.box for p in inside)]), rows))
            taken = {id(p) for p in inside}
            rest = [p for p in rest if id(p) not in taken]
    return tables, rest


def _grids(rulings: Sequence[Box]) -> list[tuple[list[float], list[float]]]:
    """Edges of columns and rows of each set of lines that touch, larger grids first."""
    across = [b for b in rulings if b[3] - b[1] <= THIN and b[2] - b[0] >= SHORTEST_RULE]
    upright = [b for b in rulings if b[2] - b[0] <= THIN and b[3] - b[1] >= SHORTEST_RULE]
    if len(across) + len(upright) > 4000:
        return []
    groups: list[tuple[Box, list[Box]]] = []
    for box in sorted([*across, *upright], key=lambda b: (b[1], b[0])):
        touching = [group for group in groups if any(_touch(box, other) for other in group[1])]
        merged = [box, *(other for group in touching for other in group[1])]
        groups = [group for group in groups if group not in touching]
        groups.append((union(merged), merged))
    grids = []
    for bounds, group in groups:
        xs = _distinct([bounds[0], bounds[2], *(b[0] for b in group if b[2] - b[0] <= THIN)])
        ys = _distinct([bounds[1], bounds[3], *(b[1] for b in group if b[3] - b[1] <= THIN)])
        if len(xs) >= 3 and len(ys) >= 2:
            grids.append((xs, ys))
    return sorted(grids, key=lambda g: -(g[0][-1] - g[0][0]) * (g[1][-1] - g[1][0]))


def _touch(a: Box, b: Box) -> bool:
    return a[0] - NEAR <= b[2] and b[0] - NEAR <= a[2] and a[1] - 3 <= b[3] and b[1] - 3 <= a[3]


def _distinct(values: Iterable[float]) -> list[float]:
    kept: list[float] = []
    for value in sorted(values):
        if not kept or value - kept[-1] > 4:
            kept.append(value)
    return kept


def _center(piece: Piece) -> float:
    return (piece.box[0] + piece.box[2]) / 2


Rows = tuple[tuple[tuple[Piece, ...], ...], ...]


def _ruled_rows(pieces: Sequence[Piece], xs: Sequence[float], ys: Sequence[float]) -> Rows:
    rows: list[tuple[tuple[Piece, ...], ...]] = []
    for top, bottom in pairwise(ys):
        band = [p for p in pieces if (top <= p.middle or top == ys[0]) and (p.middle < bottom or bottom == ys[-1])]
        lines = [tuple(tuple(_rows_flat(cell)) for cell in _by_column(line, xs)) for line in _split_band(band, xs)]
        rows += _joined(tuple(line for line in lines if any(line)))
    return _without_empty_columns(rows)


def _without_empty_columns(rows: Sequence[tuple[tuple[Piece, ...], ...]]) -> Rows:
    """Double rules leave slits between them that are no columns."""
    filled = [any(cells) for cells in zip(*rows, strict=True)]
    return tuple(tuple(cell for cell, keep in zip(row, filled, strict=True) if keep) for row in rows)


def _by_column(pieces: Sequence[Piece], xs: Sequence[float]) -> list[list[Piece]]:
    """Pieces by the column in which they begin or, when they fit one, lie."""
    columns: list[list[Piece]] = [[] for _ in xs[1:]]
    for piece in pieces:
        at = min(_center(piece), max(piece.box[0] + piece.size, xs[0])) if _spans(piece, xs) else _center(piece)
        columns[max(0, min(sum(at >= x for x in xs) - 1, len(columns) - 1))].append(piece)
    return columns


def _spans(piece: Piece, xs: Sequence[float]) -> bool:
    return any(piece.box[0] + piece.size < x < piece.box[2] - piece.size for x in xs[1:-1])


def _split_band(band: Sequence[Piece], xs: Sequence[float]) -> list[Sequence[Piece]]:
    """A band without inner rules holds several rows when its columns have their lines side by side."""
    lines = _rows(band)
    filled = [sum(bool(cell) for cell in _by_column(line, xs)) for line in lines]
    several = len(lines) > 1 and min(filled, default=0) >= 2 and max(filled) == median(filled)
    return list(lines) if several else [band]


def _rows_flat(pieces: Sequence[Piece]) -> list[Piece]:
    return [piece for row in _rows(pieces) for piece in row]


def _is_table(rows: Rows) -> bool:
    """At least two rows and two columns with text, and not one frame around a text."""
    if len(rows) < 2 or sum(any(row[k] for row in rows) for k in range(len(rows[0]))) < 2:
        return False
    lengths = [sum(len(p.text) for p in cell) for row in rows for cell in row]
    return sum(map(bool, lengths)) >= 4 and max(lengths) < max(0.6 * sum(lengths), 200)


def open_tables(pieces: Sequence[Piece]) -> tuple[list[Table], list[Piece]]:
    """Tables without a grid: three rows or more whose short cells stand under each other."""
    prose = {id(p) for p in _prose(pieces)}
    rows = _rows([p for p in pieces if id(p) not in prose and not _stands(p)])
    tables: list[Table] = []
    taken: set[int] = set()
    for run in _runs(rows):
        edges = _column_edges(run)
        if len(edges) < 3:
            continue
        cells = tuple(tuple(tuple(cell) for cell in _by_column(row, edges)) for row in run)
        if not _is_tabular(cells):
            continue
        tables.append(Table(union(p.box for row in run for p in row), _joined(cells)))
        taken |= {id(p) for row in run for p in row}
    return tables, [p for p in pieces if id(p) not in taken]


def _prose(pieces: Sequence[Piece]) -> list[Piece]:
    """Long lines with another long line right above or below: paragraphs, never cells."""
    long = [p for p in pieces if p.words >= 6 or len(p.text) >= 40]
    return [
        a
        for a in long
        if any(
            a is not b and abs(a.middle - b.middle) < 2 * max(a.size, b.size) and _shared_x(a.box, b.box) > 0.6
            for b in long
        )
    ]


def _shared_x(a: Box, b: Box) -> float:
    """Common width as a part of the narrower box."""
    return (min(a[2], b[2]) - max(a[0], b[0])) / max(min(a[2] - a[0], b[2] - b[0]), 1e-6)


def _runs(rows: Sequence[list[Piece]]) -> list[list[list[Piece]]]:
    """Neighbouring rows of which most have several cells; each run begins and ends with such a row or its stub."""
    runs: list[list[list[Piece]]] = []
    run: list[list[Piece]] = []
    for row in rows:
        if run and row[0].middle - run[-1][0].middle > 2.6 * max(p.size for p in (*row, *run[-1])):
            runs.append(run)
            run = []
        single = len(row) == 1
        if single and (not run or len(run[-1]) == 1):
            runs.append(run)
            run = []
            continue
        run.append(row)
    runs.append(run)
    trimmed = [run[:-1] if run and len(run[-1]) == 1 else run for run in runs]
    return [run for run in trimmed if sum(len(row) > 1 for row in run) >= 3]


def _column_edges(run: Sequence[Sequence[Piece]]) -> list[float]:
    """Edges of the columns: the empty stripes that go through every row of several cells."""
    spans = sorted((p.box[0], p.box[2]) for row in run if len(row) > 1 for p in row)
    columns: list[list[float]] = []
    for x0, x1 in spans:
        if columns and x0 < columns[-1][1] + 2:
            columns[-1][1] = max(columns[-1][1], x1)
        else:
            columns.append([x0, x1])
    inner = [(a[1] + b[0]) / 2 for a, b in pairwise(columns)]
    return [columns[0][0], *inner, columns[-1][1]]


def _is_tabular(rows: Rows) -> bool:
    """Short cells in every column but one at most, and columns that are mostly filled."""
    columns = list(zip(*rows, strict=True))
    words = [median([sum(p.words for p in cell) for cell in column if cell] or [0]) for column in columns]
    filled = sum(bool(cell) for row in rows for cell in row) / (len(rows) * len(columns))
    return sum(w > 4 for w in words) <= 1 and filled >= 0.4 and (len(columns) > 2 or min(words) <= 2)


def _joined(rows: Rows) -> Rows:
    """Rows that only carry on the cells above them are part of those."""
    tops = [min(p.box[1] for cell in row for p in cell) for row in rows]
    pitches = sorted(b - a for a, b in pairwise(tops))
    usual = pitches[len(pitches) // 2] if pitches else 0.0
    joined: list[tuple[tuple[Piece, ...], ...]] = []
    for k, row in enumerate(rows):
        above = joined[-1] if joined else None
        if above and all(above[n] for n, cell in enumerate(row) if cell) and _carries_on(above, row, k, tops, usual):
            joined[-1] = tuple(a + b for a, b in zip(above, row, strict=True))
        else:
            joined.append(row)
    return tuple(joined)


def _carries_on(
    above: Sequence[Sequence[Piece]], row: Sequence[Sequence[Piece]], k: int, tops: Sequence[float], usual: float
) -> bool:
    """In the head lines stand closer than rows do, or all have no first cell; below it one cell runs over alone."""
    if k < HEAD_ROWS:
        tight = tops[k] - tops[k - 1] < 0.85 * usual
        words_only = not _numeric(above) and not _numeric(row)
        return (not above[0] and not row[0]) or (words_only and (tight or not row[0]))
    gap = tops[k] - max(p.box[3] for cell in above for p in cell)
    return gap < 2 and not row[0] and sum(map(bool, row)) == 1 and not _numeric(row)


def _numeric(row: Sequence[Sequence[Piece]]) -> bool:
    return any(character.isdigit() for cell in row for piece in cell for character in piece.text)


def _table_block(table: Table) -> PageBlock:
    rows = [[" ".join(p.text for p in cell) for cell in row] for row in table.rows]
    pieces = [p for row in table.rows for cell in row for p in cell]
    text = "\n".join("\t".join(row).rstrip("\t") for row in rows)
    return PageBlock(kind="table", box=table.box, text=text, rows=rows, confidence=_score(pieces))


def _paragraphs(pieces: Sequence[Piece]) -> list[list[list[Piece]]]:
    """Lines of pieces, grouped into paragraphs."""
    lines = sorted((_Line(line) for line in _lines(pieces)), key=lambda line: (line.middle, line.box[0]))
    middles = [line.middle for line in lines]
    below: dict[int, int] = {}
    for k, line in enumerate(lines):
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
            chain, k = [lines[start].pieces], start
            while k in follows:
                k = follows[k]
                chain.append(lines[k].pieces)
            paragraphs.append(chain)
    return paragraphs


class _Line:
    """Pieces of one line, with what decides whether the next one carries it on."""

    def __init__(self, pieces: list[Piece]) -> None:
        longest = max(pieces, key=lambda p: len(p.text))
        self.pieces = pieces
        self.box = union(p.box for p in pieces)
        self.middle = (self.box[1] + self.box[3]) / 2
        self.size, self.bold = longest.size, longest.bold


def _lines(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces side by side joined into lines where no gutter between columns parts them."""
    field = _Field(pieces)
    right = {}
    for a in pieces:
        after = [b for b in field.near(a, 1.0) if b.box[0] + b.box[2] > a.box[0] + a.box[2] and _beside(a, b)]
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
    if gap > 3 * size or _stands(a) != _stands(b):
        return False
    if gap < (SENTENCE if a.block == b.block >= 0 else CLOSE) * size:
        return True
    bridge = [p for p in near if p.box[0] < a.box[2] - size and p.box[2] > b.box[0] + size]
    for side in (-1, 1):
        row = [p for p in near if (p.middle - a.middle) * side > 0.6 * size and not _stands(p)]
        bridged = any(p in bridge for p in row)
        left = any(a.box[0] < p.box[2] <= b.box[0] - 0.2 * size for p in row)
        right = any(b.box[2] > p.box[0] >= a.box[2] + 0.2 * size for p in row)
        if not bridged and left and right:
            return False
    return gap < 1.6 * size or bool(bridge)


def _next_below(line: _Line, lower: Sequence[_Line]) -> int | None:
    """Which of the lines close below carries on the same paragraph."""
    reach = [n for n, other in enumerate(lower) if other.middle > line.middle and _shared_x(line.box, other.box) > 0.4]
    if not reach or _stands(line.pieces[0]):
        return None
    nearest = lower[reach[0]]
    if any(_same_row(lower[n].box, nearest.box) for n in reach[1:]):
        return None
    close = nearest.box[1] - line.box[3] <= 0.75 * max(line.size, nearest.size)
    alike = 0.8 < line.size / nearest.size < 1.25 and line.bold == nearest.bold
    return reach[0] if close and alike and not BULLET.match(nearest.pieces[0].text) else None


def _same_row(a: Box, b: Box) -> bool:
    return min(a[3], b[3]) - max(a[1], b[1]) > ROW_OVERLAP * min(a[3] - a[1], b[3] - b[1])


def _text_block(lines: Sequence[Sequence[Piece]], body_size: float) -> PageBlock:
    pieces = [p for line in lines for p in line]
    text = "\n".join(" ".join(p.text for p in line) for line in lines)
    box = union(p.box for p in pieces)
    return PageBlock(kind=_kind(pieces, text, len(lines), body_size), box=box, text=text, confidence=_score(pieces))


def _kind(pieces: Sequence[Piece], text: str, lines: int, body_size: float) -> Kind:
    words, size = len(text.split()), median(p.size for p in pieces)
    bold = sum(len(p.text) for p in pieces if p.bold) > 0.8 * sum(len(p.text) for p in pieces)
    # Heights of OCR boxes vary with the letters in them; font sizes do not.
    larger = size >= (1.15 if pieces[0].score is None else 1.4) * body_size
    if CAPTION.match(text):
        return "caption"
    if (larger or bold) and lines <= 3 and words <= 30 and sum(map(str.isalpha, text)) >= 3 and text[-1] not in ",;":
        return "heading"
    return "list" if BULLET.match(text) else "text"


def _name_title(
    ordered: Sequence[PageBlock], paragraphs: Sequence[Sequence[Sequence[Piece]]], body_size: float
) -> None:
    """The largest heading is the title, when it is clearly larger than the text. Writes the block in place."""
    sizes = {union(p.box for line in lines for p in line): _Line(list(lines[0])).size for lines in paragraphs}
    headings = [block for block in ordered if block.kind == "heading"]
    largest = max(headings, key=lambda block: sizes.get(block.box, 0.0), default=None)
    if largest is not None and sizes.get(largest.box, 0.0) >= 1.25 * body_size:
        largest.kind = "title"
