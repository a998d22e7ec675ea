"""Reading order of boxes on a page. Pure geometry; origin top left, any unit.

After Breuel: `a` is read before `b` when they share a column and `a` is higher, or when `a` lies left of `b` and
nothing between them in height spans both. The rest is a topological sort that goes down before it goes right.

Before that every box is widened into the white space beside it, up to its neighbours: a short heading then has the
width of its column and a centred title that of the page, where Breuel's rule on bare boxes calls them neighbours.
Source: Breuel 2003, "High performance document layout analysis", section on reading order.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from workers.answers import Box

EDGE = 0.15  # of a box's width: neighbours may overlap by this
OVERLAP = 0.3  # of the narrower box: less than this is a touch, not a shared column
# Boxes: more than this on a page are labels of a drawing, which no reader goes through in columns. The densest of 144
# pages of reports and tables has 58 blocks.
MOST = 1500


def reading_order(boxes: Sequence[Box], pad: float = 0.0, *, check: Callable[[], object] = lambda: None) -> list[int]:
    """Indices of `boxes` as a reader goes through them; the same boxes give the same order.

    Args:
        boxes: [x0, y0, x1, y1] each.
        pad: height of a line: a box this close above or below still stands beside another, so that the white
            space between two paragraphs of one column opens no way for a box of the next.
        check: called as it goes on; what it raises ends it.
    """
    if len(boxes) < 2:
        return list(range(len(boxes)))
    if len(boxes) > MOST:
        return [k for row in by_rows(boxes) for k in row]
    bare = np.asarray(boxes, dtype=np.float64)
    return _sorted(_before(_widened(bare, pad), check), boxes)


def by_rows(boxes: Sequence[Box]) -> list[list[int]]:
    """Indices row by row from the top, each row from the left, for any number of boxes.

    A row begins with the first box whose middle lies below the box that began the one before.
    """
    rows: list[list[int]] = []
    bottom = -math.inf
    for k in sorted(range(len(boxes)), key=lambda k: (boxes[k][1] + boxes[k][3], boxes[k][0])):
        middle = (boxes[k][1] + boxes[k][3]) / 2
        if middle > bottom:
            rows.append([])
            bottom = boxes[k][3]
        rows[-1].append(k)
    return [sorted(row, key=lambda k: (boxes[k][0], boxes[k][1])) for row in rows]


def _widened(boxes: NDArray[np.float64], pad: float) -> NDArray[np.float64]:
    x0, y0, x1, y1 = boxes.T
    beside = (y0[:, None] - pad < y1) & (y1[:, None] + pad > y0)
    right_of = beside & (x0 >= (x1 - EDGE * (x1 - x0))[:, None])
    left_of = beside & (x1 <= (x0 + EDGE * (x1 - x0))[:, None])
    wide = boxes.copy()
    wide[:, 0] = np.minimum(x0, np.where(left_of, x1, x0.min()).max(axis=1, initial=x0.min()))
    wide[:, 2] = np.maximum(x1, np.where(right_of, x0, x1.max()).min(axis=1, initial=x1.max()))
    return wide


def _before(boxes: NDArray[np.float64], check: Callable[[], object]) -> NDArray[np.bool_]:
    """[N, N] whether row a is read before column b."""
    x0, y0, x1, y1 = boxes.T
    middle = (y0 + y1) / 2
    shared = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    narrower = np.minimum((x1 - x0)[:, None], x1 - x0)
    column = shared > OVERLAP * np.maximum(narrower, 1e-6)
    above = column & (middle[:, None] < middle)
    left = ~column & ((x0 + x1)[:, None] < x0 + x1)
    before = above | (left & ~_spanned(column, middle, check))
    np.fill_diagonal(before, False)
    return before


def _spanned(column: NDArray[np.bool_], middle: NDArray[np.float64], check: Callable[[], object]) -> NDArray[np.bool_]:
    """[N, N] whether a box that lies between a and b in height shares a column with both.

    For each a the boxes below it in its column are gone through downwards, with all columns met so far in one set of
    bits: N steps on rows of N bits instead of N^2 steps.
    """
    order = np.argsort(middle, kind="stable")
    heights, sorted_ = middle[order], column[np.ix_(order, order)]
    bits = np.packbits(sorted_, axis=1)
    found = np.zeros_like(column)
    for a in range(len(order)):
        check()
        between = np.flatnonzero(sorted_[a] & (heights > heights[a]))
        met = np.bitwise_or.accumulate(bits[between], axis=0)
        # How many of them lie above each b.
        passed = np.searchsorted(heights[between], heights, side="left")
        below = np.flatnonzero(passed)
        found[a, below] = met[passed[below] - 1, below >> 3] >> (7 - (below & 7)) & 1
    back = np.argsort(order)
    return (found | found.T)[np.ix_(back, back)]


def _sorted(before: NDArray[np.bool_], boxes: Sequence[Box]) -> list[int]:
    """Depth-first topological sort; a cycle is broken at the box that is higher, then further left."""
    seeds = np.array(sorted(range(len(boxes)), key=lambda k: (boxes[k][1], boxes[k][0])))
    parents = before.T[np.ix_(seeds, seeds)]
    order: list[int] = []
    seen: set[int] = set()

    def parents_of(node: int) -> Iterator[int]:
        return iter(np.flatnonzero(parents[node]).tolist())

    for seed in range(len(boxes)):
        stack = [(seed, parents_of(seed))] if seed not in seen else []
        seen.add(seed)
        while stack:
            node, rest = stack[-1]
            parent = next((p for p in rest if p not in seen), None)
            if parent is None:
                order.append(node)
                stack.pop()
            else:
                seen.add(parent)
                stack.append((parent, parents_of(parent)))
    return seeds[order].tolist()
