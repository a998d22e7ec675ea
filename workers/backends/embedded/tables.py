"""Tables of a page: drawn as a grid of lines, or short cells that stand under each other."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from statistics import median

from workers.answers import Box
from workers.backends.embedded.pieces import SHORTEST_RULE, THIN, Piece, rows_of, shared_width, union

HEAD_ROWS = 4  # no head is higher
NEAR = 6.0  # points: shaded rows stop between columns by less than this

Row = tuple[tuple[Piece, ...], ...]
Rows = tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Table:
    box: Box
    rows: Rows


def ruled_tables(pieces: Sequence[Piece], rulings: Sequence[Box]) -> tuple[list[Table], list[Piece]]:
    """Tables drawn as a grid of lines, and the pieces outside them."""
    tables: list[Table] = []
    rest = list(pieces)
    for xs, ys in _grids(rulings):
        inside = [p for p in rest if xs[0] - 2 <= p.center <= xs[-1] + 2 and ys[0] - 2 <= p.middle <= ys[-1] + 2]
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


def _ruled_rows(pieces: Sequence[Piece], xs: Sequence[float], ys: Sequence[float]) -> Rows:
    rows: list[Row] = []
    for top, bottom in pairwise(ys):
        band = [p for p in pieces if (top <= p.middle or top == ys[0]) and (p.middle < bottom or bottom == ys[-1])]
        lines = [tuple(tuple(chain(*rows_of(cell))) for cell in _by_column(line, xs)) for line in _split_band(band, xs)]
        rows += _joined(tuple(line for line in lines if any(line)))
    return _without_empty_columns(rows)


def _without_empty_columns(rows: Sequence[Row]) -> Rows:
    """Double rules leave slits between them that are no columns."""
    filled = [any(cells) for cells in zip(*rows, strict=True)]
    return tuple(tuple(cell for cell, keep in zip(row, filled, strict=True) if keep) for row in rows)


def _by_column(pieces: Sequence[Piece], xs: Sequence[float]) -> list[list[Piece]]:
    """Pieces by the column in which they begin or, when they fit one, lie."""
    columns: list[list[Piece]] = [[] for _ in xs[1:]]
    for piece in pieces:
        at = min(piece.center, max(piece.box[0] + piece.size, xs[0])) if _spans(piece, xs) else piece.center
        columns[max(0, min(sum(at >= x for x in xs) - 1, len(columns) - 1))].append(piece)
    return columns


def _spans(piece: Piece, xs: Sequence[float]) -> bool:
    return any(piece.box[0] + piece.size < x < piece.box[2] - piece.size for x in xs[1:-1])


def _split_band(band: Sequence[Piece], xs: Sequence[float]) -> list[Sequence[Piece]]:
    """A band without inner rules holds several rows when its columns have their lines side by side."""
    lines = rows_of(band)
    filled = [sum(bool(cell) for cell in _by_column(line, xs)) for line in lines]
    several = len(lines) > 1 and min(filled, default=0) >= 2 and max(filled) == median(filled)
    return list(lines) if several else [band]


def _is_table(rows: Rows) -> bool:
    """At least two rows and two columns with text, and not one frame around a text."""
    if len(rows) < 2 or len(rows[0]) < 2:
        return False
    lengths = [sum(len(p.text) for p in cell) for row in rows for cell in row]
    return sum(map(bool, lengths)) >= 4 and max(lengths) < max(0.6 * sum(lengths), 200)


def open_tables(
    pieces: Sequence[Piece], *, check: Callable[[], object] = lambda: None
) -> tuple[list[Table], list[Piece]]:
    """Tables without a grid: three rows or more whose short cells stand under each other."""
    prose = {id(p) for p in _prose(pieces, check)}
    check()
    rows = rows_of([p for p in pieces if id(p) not in prose and not p.stands])
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


def _prose(pieces: Sequence[Piece], check: Callable[[], object]) -> list[Piece]:
    """Long lines with another long line right above or below: paragraphs, never cells."""
    long = sorted((p for p in pieces if p.words >= 6 or len(p.text) >= 40), key=lambda p: p.middle)
    middles = [p.middle for p in long]
    largest = max((p.size for p in long), default=0.0)
    found = []
    for a in long:
        check()
        near = long[bisect_left(middles, a.middle - 2 * largest) : bisect_right(middles, a.middle + 2 * largest)]
        if any(
            a is not b and abs(a.middle - b.middle) < 2 * max(a.size, b.size) and shared_width(a.box, b.box) > 0.6
            for b in near
        ):
            found.append(a)
    return found


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
    joined: list[Row] = []
    for k, row in enumerate(rows):
        above = joined[-1] if joined else None
        if above and all(above[n] for n, cell in enumerate(row) if cell) and _carries_on(above, row, k, tops, usual):
            joined[-1] = tuple(a + b for a, b in zip(above, row, strict=True))
        else:
            joined.append(row)
    return tuple(joined)


def _carries_on(above: Row, row: Row, k: int, tops: Sequence[float], usual: float) -> bool:
    """In the head lines stand closer than rows do, or all have no first cell; below it one cell runs over alone."""
    if k < HEAD_ROWS:
        tight = tops[k] - tops[k - 1] < 0.85 * usual
        words_only = not _numeric(above) and not _numeric(row)
        return (not above[0] and not row[0]) or (words_only and (tight or not row[0]))
    gap = tops[k] - max(p.box[3] for cell in above for p in cell)
    return gap < 2 and not row[0] and sum(map(bool, row)) == 1 and not _numeric(row)


def _numeric(row: Row) -> bool:
    return any(character.isdigit() for cell in row for piece in cell for character in piece.text)
