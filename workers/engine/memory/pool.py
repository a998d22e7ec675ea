"""A pool of whole numbers, each of them free or owned by exactly one owner.

    KV blocks          first = 1   block 0 takes what padding writes
    state slots        first = 1   slot 0 likewise
    embedding pages    first = 0   text has no row

One thread. What is wrong here is a fault of the engine, never of a request: it raises `PoolError`.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

Owner = TypeVar("Owner")


class PoolError(RuntimeError):
    """A number was taken, given back or found where it cannot be."""


class Pool(Generic[Owner]):
    """`count` numbers from `first` on."""

    def __init__(self, name: str, count: int, first: int = 0) -> None:
        if count < 1:
            raise ValueError(f"expected a pool of at least one {name}, got {count}")
        self.name, self.first, self.count = name, first, count
        # The one given back last is taken first: its memory is warm, and whoever still uses it is found out soon.
        self._free = list(range(first + count - 1, first - 1, -1))
        self._owner_of: dict[int, Owner] = {}

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.count - len(self._free)

    def take(self, owner: Owner, count: int) -> list[int]:
        """Takes `count` numbers.

        Raises:
            PoolError: fewer are free; the caller should have asked.
        """
        if not 0 <= count <= len(self._free):
            raise PoolError(f"{self.name}: expected to take 0..{len(self._free)}, got {count}")
        taken = [self._free.pop() for _ in range(count)]
        self._owner_of.update(dict.fromkeys(taken, owner))
        return taken

    def give(self, owner: Owner, numbers: Sequence[int]) -> None:
        """Gives numbers back, last one first.

        Raises:
            PoolError: one of them is not the owner's; then none is given back.
        """
        strange = [one for one in numbers if self._owner_of.get(one, self) is not owner]
        if strange or len(set(numbers)) != len(numbers):
            raise PoolError(f"{self.name}: {owner!r} gives back what it does not own: {strange or numbers}")
        for one in reversed(numbers):
            del self._owner_of[one]
            self._free.append(one)

    def owned_by(self, owner: Owner) -> list[int]:
        return sorted(one for one, its in self._owner_of.items() if its is owner)

    def check(self) -> None:
        """Every number is free once or owned once.

        Raises:
            PoolError: with what is missing, and what is there twice.
        """
        seen = [*self._free, *self._owner_of]
        everything = range(self.first, self.first + self.count)
        if sorted(seen) != list(everything):
            lost = sorted(set(everything) - set(seen))
            twice = sorted({one for one in seen if seen.count(one) > 1} | set(seen) - set(everything))
            raise PoolError(f"{self.name}: expected each of {self.count} once; lost {lost}, twice or strange {twice}")
