"""The thinking budget: when a thought is ended, with what, and through a sampler whose ids are read a step late."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.sampler import SamplerRows, sample
from workers.engine.sampling import SamplingParams
from workers.engine.tekken import tokenizer_json
from workers.engine.thinking import NOTHING, Thinking, ThinkingRules
from workers.engine.tokenizer import Tokenizer

TOKENIZER = Tokenizer(tokenizer_json())
RULES = ThinkingRules(TOKENIZER)
THINK, END = 12, 13
A, NEWLINE, EMPTY_LINE = 1097, 1010, 1267
NO_MASKS = torch.zeros(0, 40, dtype=torch.int32)


def thought(budget: int | None, grace: int = 0, *, thinking: bool = True) -> Thinking:
    return Thinking(RULES, thinking=thinking, budget=budget, grace=grace)


def forced(thinking: Thinking, wanted: Sequence[int]) -> list[int]:
    """Ids of a sequence that says `wanted` wherever nothing is forced."""
    ids: list[int] = []
    wants = list(wanted)
    while wants:
        ids.append(thinking.forced_id if thinking.forced_id != NOTHING else wants.pop(0))
        thinking.advance(ids[-1:])
    return ids


def test_what_ends_a_thought_is_what_the_card_writes_there() -> None:
    assert RULES.closing == (END, EMPTY_LINE)
    assert TOKENIZER.decode(RULES.closing) == "</think>\n\n"


def test_a_thought_over_its_budget_is_ended_and_the_answer_goes_on() -> None:
    assert forced(thought(3), [A] * 6) == [A, A, A, END, EMPTY_LINE, A, A, A]


def test_within_the_grace_it_is_ended_at_a_line_break() -> None:
    assert forced(thought(2, 5), [A, A, A, NEWLINE, A]) == [A, A, A, NEWLINE, END, EMPTY_LINE, A]
    assert forced(thought(2, 5), [A, NEWLINE, A]) == [A, NEWLINE, END, EMPTY_LINE, A]
    assert forced(thought(2, 5), [NEWLINE, *[A] * 8]) == [NEWLINE, *[A] * 6, END, EMPTY_LINE, A, A]


def test_a_thought_that_ends_by_itself_is_left_alone() -> None:
    own = [A, NEWLINE, END, NEWLINE, *[A] * 20]
    assert forced(thought(3, 3), own) == own
    assert forced(thought(3), [A, A, END, *[A] * 20]) == [A, A, END, *[A] * 20]


def test_without_thought_or_budget_nothing_is_forced() -> None:
    assert forced(thought(0, thinking=False), [A] * 5) == [A] * 5
    assert forced(thought(None), [A] * 50) == [A] * 50


def test_a_budget_of_nothing_ends_the_thought_at_once() -> None:
    assert forced(thought(0, 99), [A, A]) == [END, EMPTY_LINE, A, A]


def test_a_thought_that_is_opened_again_has_what_is_left() -> None:
    assert forced(thought(4), [A, END, A, THINK, *[A] * 4]) == [A, END, A, THINK, A, A, A, END, EMPTY_LINE, A]
    assert forced(thought(1), [A, A, THINK, A]) == [A, END, EMPTY_LINE, A, THINK, END, EMPTY_LINE, A]


def test_a_forced_id_that_was_not_given_stays_forced() -> None:
    thinking = thought(2)
    thinking.advance([A, A, A, A])
    assert thinking.forced_id == END
    thinking.advance([END, EMPTY_LINE, A])
    assert (thinking.open, thinking.forced_id) == (False, NOTHING)


WORDS = st.sampled_from([A, A, A, NEWLINE, EMPTY_LINE, END, THINK])


@given(st.lists(WORDS, max_size=60), st.integers(0, 8), st.integers(0, 8))
def test_no_thought_is_longer_than_budget_and_grace(words: list[int], budget: int, grace: int) -> None:
    thinking = thought(budget, grace)
    ids = forced(thinking, words)
    inside, used, longest = True, 0, 0
    for id in ids:
        if id in (THINK, END):
            inside = id == THINK
        elif inside:
            used, longest = used + 1, max(longest, used + 1)
    assert longest <= budget + grace
    assert thinking.open == inside
    # Nothing is lost: without what was forced, the words stand there in order.
    rest = iter(ids)
    assert all(word in rest for word in words)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5)), min_size=1, max_size=4), st.integers(0, 99))
def test_it_holds_when_ids_are_read_one_step_late(budgets: list[tuple[int, int]], seed: int) -> None:
    """As the engine does: launch n + 1, read the ids of n, then sample n + 1."""
    rows = SamplerRows(len(budgets))
    sequences = [thought(budget, grace) for budget, grace in budgets]
    outputs: list[list[int]] = [[] for _ in budgets]
    on_device: list[int] = []
    for step in range(30):
        logits = torch.randn(len(budgets), 1280, generator=torch.Generator().manual_seed(100 * seed + step))
        logits[:, :1000] = -torch.inf  # no thought ends by itself
        for row, id in enumerate(on_device):
            outputs[row].append(id)
            sequences[row].advance([id])
        for row, sequence in enumerate(sequences):
            rows.put(row, SamplingParams(seed=seed), step, forced_id=sequence.forced_id)
        on_device = sample(logits, rows.send(len(budgets), NO_MASKS)).tolist()
    for (budget, grace), output in zip(budgets, outputs, strict=True):
        assert output.count(END) == 1
        end = output.index(END)
        assert output[end + 1] == EMPTY_LINE
        assert budget <= end <= budget + grace
        assert end in (budget, budget + grace) or output[end - 1] in (NEWLINE, EMPTY_LINE)


@pytest.mark.parametrize("ids", [[END], [A, END], [A, A, A, END, EMPTY_LINE, A]])
def test_ids_may_come_in_any_portions(ids: list[int]) -> None:
    one, many = thought(3), thought(3)
    one.advance(ids)
    for id in ids:
        many.advance([id])
    assert (one.open, one.used, one.forced_id) == (many.open, many.used, many.forced_id)
