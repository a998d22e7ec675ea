"""Which pages of a document were asked for. Pure."""

from collections.abc import Sequence


def pages_within(count: int, ranges: Sequence[Sequence[int]]) -> list[int]:
    """The existing pages of `ranges` (from 1, both ends included) in that order, each once; no ranges: all."""
    if not ranges:
        return list(range(1, count + 1))
    return list(dict.fromkeys(n for first, last in ranges for n in range(max(first, 1), min(last, count) + 1)))
