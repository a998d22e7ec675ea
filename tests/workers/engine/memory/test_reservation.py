"""Room for a whole sequence, taken at once."""

import pytest

from workers.engine.errors import NeverFits
from workers.engine.memory.pool import PoolError
from workers.engine.memory.reservation import Memory, Need


def make_memory() -> Memory:
    return Memory(blocks=8, block_size=4, slots=3, pages=4, page_size=2)


@pytest.mark.parametrize(("positions", "blocks"), [(1, 1), (2, 1), (5, 1), (6, 2), (9, 2), (33, 8)])
def test_the_last_token_of_an_answer_needs_no_room(positions: int, blocks: int) -> None:
    assert len(make_memory().reserve(Need(positions)).blocks) == blocks


def test_what_is_reserved_is_given_back() -> None:
    memory = make_memory()
    held = memory.reserve(Need(10, (3, 1)))
    memory.check([held])
    assert [len(pages) for pages in held.pages] == [2, 1]
    memory.give_rows(held, 0)
    memory.check([held])
    assert memory.pages.free == 3
    memory.release(held)
    memory.check()
    assert (memory.blocks.free, memory.slots.free, memory.pages.free) == (8, 3, 4)


@pytest.mark.parametrize(
    ("need", "what", "asked", "limit"),
    [(Need(34), "KV blocks of 4 positions", 9, 8), (Need(2, (2, 7)), "embedding pages of 2 rows", 5, 4)],
)
def test_what_can_never_fit_is_refused_with_the_limit(need: Need, what: str, asked: int, limit: int) -> None:
    with pytest.raises(NeverFits, match=f"expected at most {limit} {what}") as caught:
        make_memory().refuse_too_large(need)
    assert (caught.value.need, caught.value.limit) == (asked, limit)


def test_what_fits_later_is_not_refused() -> None:
    memory = make_memory()
    memory.reserve(Need(29))
    memory.refuse_too_large(Need(29))
    assert not memory.fits(Need(29))
    assert memory.fits(Need(2))


def test_a_reservation_that_nobody_lists_is_found() -> None:
    memory = make_memory()
    memory.reserve(Need(4))
    with pytest.raises(PoolError, match="1 in use, 0 of sequences that live"):
        memory.check()


def test_a_block_that_two_list_is_found() -> None:
    memory = make_memory()
    anna, bert = memory.reserve(Need(4)), memory.reserve(Need(4))
    bert.blocks = anna.blocks
    with pytest.raises(PoolError, match="listed"):
        memory.check([anna, bert])
