"""Who owns which number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.memory.pool import Pool, PoolError

ANNA, BERT = object(), object()


@given(st.lists(st.integers(0, 5), max_size=40), st.data())
def test_every_number_has_one_owner_through_any_history(counts: list[int], data: st.DataObject) -> None:
    pool: Pool[object] = Pool("blocks", 12, first=1)
    held: list[tuple[object, list[int]]] = []
    for count in counts:
        if count <= pool.free:
            owner = object()
            held.append((owner, pool.take(owner, count)))
        elif held:
            pool.give(*held.pop(data.draw(st.integers(0, len(held) - 1))))
        pool.check()
        taken = [one for _, numbers in held for one in numbers]
        assert len(set(taken)) == len(taken) == pool.used
        assert set(taken) <= set(range(1, 13))


def test_the_number_of_padding_is_never_given_out() -> None:
    pool: Pool[object] = Pool("slots", 3, first=1)
    assert sorted(pool.take(ANNA, 3)) == [1, 2, 3]
    assert pool.free == 0


def test_taking_more_than_is_free_is_a_fault() -> None:
    pool: Pool[object] = Pool("slots", 2)
    with pytest.raises(PoolError, match=r"slots: expected to take 0\.\.2, got 3"):
        pool.take(ANNA, 3)


@pytest.mark.parametrize("wrong", ["another's", "twice", "never taken"])
def test_giving_back_what_one_does_not_own_is_a_fault_and_changes_nothing(wrong: str) -> None:
    pool: Pool[object] = Pool("slots", 4)
    its, other = pool.take(ANNA, 2), pool.take(BERT, 1)
    strange = {"another's": its + other, "twice": its + its[:1], "never taken": [*its, 3]}[wrong]
    with pytest.raises(PoolError):
        pool.give(ANNA, strange)
    assert pool.owned_by(ANNA) == sorted(its)
    pool.check()


def test_a_lost_number_is_found() -> None:
    pool: Pool[object] = Pool("slots", 4)
    pool._free.remove(2)
    with pytest.raises(PoolError, match=r"lost \[2\]"):
        pool.check()


def test_a_number_that_is_free_twice_is_found() -> None:
    pool: Pool[object] = Pool("slots", 4)
    pool._free.append(2)
    with pytest.raises(PoolError, match=r"twice or strange \[2\]"):
        pool.check()
