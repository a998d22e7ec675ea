"""Reading order of boxes on a page. Pure geometry; origin top left, any unit.

After Breuel: `a` is read before `b` when they share a column and `a` is higher, or when `a` lies left of `b` and
nothing between them in height spans both. The rest is a topological sort that goes down before it goes right.

Before that every box is widened into the white space beside it, up to its neighbours: a short heading then has the
width of its column and a centred title that of the page, where Breuel's rule on bare boxes calls them neighbours.
Source: Breuel 2003, "High performance document layout analysis", section on reading order.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.answers import Box

EDGE = 0.15  # of a box's width: neighbours may overlap by this
OVERLAP = 0.3  # of the narrower box: less than this is a touch, not a shared column


def reading_order(boxes: Sequence[Box], pad: float = 0.0) -> list[int]:
    """Indices of `boxes` as a reader goes through them; the same boxes give the same order.

    Args:
        boxes: [x0, y0, x1, y1] each.
        pad: height of a line: a box this close above or below still stands beside another, so that the white
            space between two paragraphs of one column opens no way for a box of the next.
    """
    if len(boxes) < 2:
        return list(range(len(boxes)))
    bare = np.asarray(boxes, dtype=np.float64)
    return _sorted(_before(_widened(bare, pad)), boxes)


def _widened(boxes: NDArray[np.float64], pad: float) -> NDArray[np.float64]:
    x0, y0, x1, y1 = boxes.T
    beside = (y0[:, None] - pad < y1) & (y1[:, None] + pad > y0)
    right_of = beside & (x0 >= (x1 - EDGE * (x1 - x0))[:, None])
    left_of = beside & (x1 <= (x0 + EDGE * (x1 - x0))[:, None])
    wide = boxes.copy()
    wide[:, 0] = np.minimum(x0, np.where(left_of, x1, x0.min()).max(axis=1, initial=x0.min()))
    wide[:, 2] = np.maximum(x1, np.where(right_of, x0, x1.max()).min(axis=1, initial=x1.max()))
    return wide


def _before(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[N, N] whether row a is read before column b."""
    x0, y0, x1, y1 = boxes.T
    middle = (y0 + y1) / 2
    shared = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    narrower = np.minimum((x1 - x0)[:, None], x1 - x0)
    column = shared > OVERLAP * np.maximum(narrower, 1e-6)
    above = column & (middle[:, None] < middle)
    left = ~column & ((x0 + x1)[:, None] < x0 + x1)
    for a, b in zip(*np.nonzero(left), strict=True):
        low, high = sorted((middle[a], middle[b]))
        between = (middle > low) & (middle < high) & column[a] & column[b]
        left[a, b] = not between.any()
    before = above | left
    np.fill_diagonal(before, False)
    return before


def _sorted(before: NDArray[np.bool_], boxes: Sequence[Box]) -> list[int]:
    """Depth-first topological sort; a cycle is broken at the box that is higher, then further left."""
    seeds = sorted(range(len(boxes)), key=lambda k: (boxes[k][1], boxes[k][0]))
    rank = {k: place for place, k in enumerate(seeds)}
    parents = [sorted(np.nonzero(before[:, k])[0].tolist(), key=rank.__getitem__) for k in range(len(boxes))]
    order: list[int] = []
    seen: set[int] = set()
    for seed in seeds:
        stack = [(seed, iter(parents[seed]))] if seed not in seen else []
        seen.add(seed)
        while stack:
            node, rest = stack[-1]
            parent = next((p for p in rest if p not in seen), None)
            if parent is None:
                order.append(node)
                stack.pop()
            else:
                seen.add(parent)
                stack.append((parent, iter(parents[parent])))
    return order
