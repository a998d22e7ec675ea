"""What a sequence takes at admission and keeps to its end: room for its prompt and its longest answer.

Nothing is evicted and nobody is interrupted, so what was admitted always ends. Media rows are the exception that gives
back early: once prefill has read an item's rows, nobody reads them again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from workers.engine.errors import NeverFits
from workers.engine.memory.pool import Pool, PoolError


@dataclass(frozen=True, slots=True)
class Need:
    """What one sequence asks for.

    Attributes:
        positions: prompt and longest answer, in tokens. The last token of an answer is never fed back, so one position
            less is written.
        rows: embedding rows of each of its media items, in order of appearance.
    """

    positions: int
    rows: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class Reservation:
    """What one sequence holds.

    Attributes:
        blocks: KV blocks, position p lies in `blocks[p // block_size]`.
        slot: of the Mamba states and of the last sampled token.
        pages: embedding pages of each media item; an item that was read has none left.
    """

    blocks: list[int]
    slot: int
    pages: list[list[int]] = field(default_factory=list)


class Memory:
    """The three pools, and how much of each a sequence needs.

    Attributes:
        block_size: positions in a KV block.
        page_size: rows in an embedding page.
    """

    def __init__(self, *, blocks: int, block_size: int, slots: int, pages: int, page_size: int) -> None:
        """
        Args:
            blocks, slots, pages: how many can be owned; the one of padding is not counted.
        """
        self.block_size, self.page_size = block_size, page_size
        self.blocks: Pool[Reservation] = Pool("KV blocks", blocks, first=1)
        self.slots: Pool[Reservation] = Pool("state slots", slots, first=1)
        self.pages: Pool[Reservation] = Pool("embedding pages", pages)

    def refuse_too_large(self, need: Need) -> None:
        """
        Raises:
            NeverFits: the sequence would not fit if it were the only one.
        """
        if (blocks := self._blocks(need)) > self.blocks.count:
            raise NeverFits(f"KV blocks of {self.block_size} positions", blocks, self.blocks.count)
        if (pages := sum(self._pages(need))) > self.pages.count:
            raise NeverFits(f"embedding pages of {self.page_size} rows", pages, self.pages.count)

    def fits(self, need: Need) -> bool:
        """Whether it can be reserved now."""
        return (
            self.slots.free > 0 and self._blocks(need) <= self.blocks.free and sum(self._pages(need)) <= self.pages.free
        )

    def reserve(self, need: Need) -> Reservation:
        """Takes what `fits` said is there."""
        held = Reservation([], -1)
        [held.slot] = self.slots.take(held, 1)
        held.blocks = self.blocks.take(held, self._blocks(need))
        held.pages = [self.pages.take(held, count) for count in self._pages(need)]
        return held

    def give_rows(self, held: Reservation, item: int) -> None:
        """One media item has been read."""
        pages, held.pages[item] = held.pages[item], []
        self.pages.give(held, pages)

    def release(self, held: Reservation) -> None:
        """Gives everything back that is still held."""
        for item in range(len(held.pages)):
            self.give_rows(held, item)
        self.blocks.give(held, held.blocks)
        self.slots.give(held, [held.slot])
        held.blocks, held.slot = [], -1

    def check(self, held: Sequence[Reservation] = ()) -> None:
        """Every block, slot and page is owned once, by one of `held`, and by the one that lists it.

        Raises:
            PoolError: with the pool and the numbers at fault.
        """
        for pool, of in ((self.blocks, _blocks_of), (self.slots, _slot_of), (self.pages, _pages_of)):
            pool.check()
            for one in held:
                if sorted(of(one)) != pool.owned_by(one):
                    raise PoolError(f"{pool.name}: {sorted(of(one))} listed, {pool.owned_by(one)} owned")
            if pool.used != (listed := sum(len(of(one)) for one in held)):
                raise PoolError(f"{pool.name}: {pool.used} in use, {listed} of sequences that live")

    def _blocks(self, need: Need) -> int:
        return -(-max(1, need.positions - 1) // self.block_size)

    def _pages(self, need: Need) -> list[int]:
        return [-(-rows // self.page_size) for rows in need.rows]


def _blocks_of(held: Reservation) -> list[int]:
    return held.blocks


def _slot_of(held: Reservation) -> list[int]:
    return [held.slot] if held.slot >= 0 else []


def _pages_of(held: Reservation) -> list[int]:
    return [page for pages in held.pages for page in pages]
