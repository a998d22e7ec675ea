"""Running heads, feet and notes up the side of a page, apart from its body."""

from collections.abc import Sequence
from typing import Literal

from workers.answers import PageBlock
from workers.backends.embedded.pieces import Piece, body_size, mean_score, rows_of, union

HEAD_GAP = 0.8  # in font sizes: least white between a running head and the body
MARGIN = 0.085  # of the page's height: where running heads and page numbers stand


def running_blocks(pieces: Sequence[Piece], width_pt: float, height_pt: float) -> tuple[list[PageBlock], list[Piece]]:
    """Running heads, feet and notes up the side: in the margin of the page, with a clear gap to the body."""
    upright = sorted((p for p in pieces if not p.stands), key=lambda p: p.box[1])
    size = body_size(upright)
    zone = height_pt * MARGIN
    found: list[tuple[Literal["header", "footer"], list[Piece]]] = [
        ("header", [] if not upright else _before_gap(upright, zone, size)),
        ("footer", [] if not upright else _after_gap(upright, height_pt - zone, size)),
        ("footer", [p for p in pieces if p.stands and not 0.1 * width_pt < p.center < 0.9 * width_pt]),
    ]
    blocks: list[PageBlock] = []
    taken: set[int] = set()
    for kind, group in found:
        if len(group) not in range(1, 12) or any(not p.stands and p.size >= 1.4 * size for p in group):
            continue
        text = "\n".join(" ".join(p.text for p in row) for row in rows_of(group))
        blocks.append(PageBlock(kind=kind, box=union(p.box for p in group), text=text, confidence=mean_score(group)))
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
