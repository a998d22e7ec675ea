"""Stretches of time in whole milliseconds, so that sums are exact. Lists of them are sorted and disjoint."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

Stretch = tuple[int, int]
Paint = TypeVar("Paint")


def ms(seconds: float) -> int:
    return round(seconds * 1000)


def seconds(milliseconds: int) -> float:
    return milliseconds / 1000


def union(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Any stretches, in any order, as a sorted and disjoint list; what is empty or runs backwards is left out."""
    merged: list[Stretch] = []
    for start, end in sorted(stretch for stretch in stretches if stretch[0] < stretch[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def minus(whole: Iterable[Stretch], taken: Sequence[Stretch]) -> list[Stretch]:
    rest: list[Stretch] = []
    for start, end in whole:
        at = start
        for low, high in within(taken, start, end):
            if low > at:
                rest.append((at, low))
            at = high
        if at < end:
            rest.append((at, end))
    return rest


def within(stretches: Sequence[Stretch], start: int, end: int) -> Iterator[Stretch]:
    """The parts of the stretches that lie in [start, end]."""
    index = bisect_right(stretches, start, key=lambda stretch: stretch[1])
    while index < len(stretches) and stretches[index][0] < end:
        low, high = stretches[index]
        yield max(low, start), min(high, end)
        index += 1


def overlap(stretches: Sequence[Stretch], start: int, end: int) -> int:
    """Milliseconds of [start, end] that the stretches cover."""
    return sum(high - low for low, high in within(stretches, start, end))


@dataclass(frozen=True, slots=True)
class Layer(Generic[Paint]):
    paint: Paint
    stretches: list[Stretch]


def painted(whole: Stretch, ground: Paint, layers: Sequence[Layer[Paint]]) -> list[tuple[int, int, Paint]]:
    """The whole cut into pieces, each in the paint of the first layer that covers it, else of the ground.

    The pieces are a partition of `whole` by construction; neighbours differ in paint.
    """
    low, high = whole
    edges = {low, high} | {at for layer in layers for pair in layer.stretches for at in pair if low < at < high}
    pieces: list[tuple[int, int, Paint]] = []
    for start, end in pairwise(sorted(edges)):
        paint = next((layer.paint for layer in layers if any(within(layer.stretches, start, end))), ground)
        if pieces and pieces[-1][2] == paint:
            pieces[-1] = (pieces[-1][0], end, paint)
        else:
            pieces.append((start, end, paint))
    return pieces
