"""From pieces of text with boxes to the blocks of a page: running heads, tables, paragraphs, and their kinds.

Works in points with the origin top left, on the words of a text layer and on OCR lines alike. Every piece ends in
exactly one block: nothing is dropped and nothing is doubled, whatever the geometry looks like.

A block gets a kind only where its form shows it (font size, boldness, bullets, place on the page, rulings, aligned
columns); everything else is `text`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import median
from typing import Literal

from workers.answers import Box, PageBlock
from workers.backends.embedded.margins import running_blocks
from workers.backends.embedded.order import by_rows, reading_order
from workers.backends.embedded.paragraphs import BULLET, Line, paragraphs_of
from workers.backends.embedded.pieces import Piece, body_size, mean_score, union
from workers.backends.embedded.tables import Table, open_tables, ruled_tables

# More than this are labels of a drawing: no paragraphs and tables are looked for, which would take minutes.
MOST_PIECES = 2000
CAPTION = re.compile(r"^(?:fig(?:ure|\.)|tab(?:le|\.)|abb(?:ildung|\.)|tabelle|chart|graph)\s*[\dIVX]", re.IGNORECASE)


def blocks_of(
    pieces: Sequence[Piece],
    rulings: Iterable[Box],
    width_pt: float,
    height_pt: float,
    *,
    first: bool = True,
    check: Callable[[], object] = lambda: None,
) -> list[PageBlock]:
    """Blocks of a page in reading order.

    Args:
        pieces: from `pieces_of`, or one for each line of OCR.
        width_pt: of the page.
        height_pt: of the page.
        rulings: [x0, y0, x1, y1] of drawn lines.
        first: the first page of its source, which may bear the title.
        check: called as it goes on; what it raises ends it.
    """
    rest = [piece for piece in pieces if piece.text]
    if len(rest) > MOST_PIECES:
        return _rows(rest)
    running, rest = running_blocks(rest, width_pt, height_pt)
    rest = _drop_caps(rest)
    ruled, rest = ruled_tables(rest, list(rulings))
    check()
    unruled, rest = open_tables(rest, check=check)
    paragraphs = paragraphs_of(rest, check=check)
    usual = body_size(rest or list(pieces))
    bodies = [_table_block(table) for table in ruled + unruled]
    bodies += [_text_block(lines, usual) for lines in paragraphs]
    ordered = [bodies[k] for k in reading_order([block.box for block in bodies], usual, check=check)]
    if first:
        _name_title(ordered, paragraphs, usual)
    heads = [block for block in running if block.kind == "header"]
    return heads + ordered + [block for block in running if block.kind == "footer"]


def _rows(pieces: Sequence[Piece]) -> list[PageBlock]:
    """A block for each row."""
    blocks = []
    for row in by_rows([piece.box for piece in pieces]):
        beside = [pieces[k] for k in row]
        text = " ".join(piece.text for piece in beside)
        blocks.append(PageBlock(box=union(piece.box for piece in beside), text=text, confidence=mean_score(beside)))
    return blocks


def _drop_caps(pieces: Sequence[Piece]) -> list[Piece]:
    """A large first letter that reaches down several lines stands on the first of them."""
    kept = []
    smallest = min((piece.size for piece in pieces), default=0.0)
    for piece in pieces:
        if len(piece.text) == 1 and piece.text.isalpha() and piece.size > 1.7 * smallest:
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


def _table_block(table: Table) -> PageBlock:
    rows = [[" ".join(p.text for p in cell) for cell in row] for row in table.rows]
    pieces = [p for row in table.rows for cell in row for p in cell]
    text = "\n".join("\t".join(row).rstrip("\t") for row in rows)
    return PageBlock(kind="table", box=table.box, text=text, rows=rows, confidence=mean_score(pieces))


def _text_block(lines: Sequence[Line], usual: float) -> PageBlock:
    pieces = [p for line in lines for p in line.pieces]
    text = "\n".join(map(str, lines))
    box = union(line.box for line in lines)
    return PageBlock(kind=_kind(pieces, text, len(lines), usual), box=box, text=text, confidence=mean_score(pieces))


def _kind(
    pieces: Sequence[Piece], text: str, lines: int, usual: float
) -> Literal["heading", "text", "list", "caption"]:
    words, size = len(text.split()), median(p.size for p in pieces)
    bold = sum(len(p.text) for p in pieces if p.bold) > 0.8 * sum(len(p.text) for p in pieces)
    # Heights of OCR boxes vary with the letters in them; font sizes do not.
    larger = size >= (1.15 if pieces[0].score is None else 1.4) * usual
    if CAPTION.match(text):
        return "caption"
    if (larger or bold) and lines <= 3 and words <= 30 and sum(map(str.isalpha, text)) >= 3 and text[-1] not in ",;":
        return "heading"
    return "list" if BULLET.match(text) else "text"


def _name_title(ordered: Sequence[PageBlock], paragraphs: Sequence[Sequence[Line]], usual: float) -> None:
    """The largest heading is the title, when it is clearly larger than the text. Writes the block in place."""
    sizes = {union(line.box for line in lines): lines[0].size for lines in paragraphs}
    headings = [block for block in ordered if block.kind == "heading"]
    largest = max(headings, key=lambda block: sizes.get(block.box, 0.0), default=None)
    if largest is not None and sizes.get(largest.box, 0.0) >= 1.25 * usual:
        largest.kind = "title"
