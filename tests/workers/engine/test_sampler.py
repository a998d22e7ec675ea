"""The sampler: what may be drawn, how often, and that a row depends on nothing but itself."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.workers.engine.no_sync import NoSync
from workers.engine.kernels.logprob import logprob
from workers.engine.kernels.sample import _drawn
from workers.engine.sampler import SamplerInputs, SamplerRows, sample
from workers.engine.sampling import SamplingParams


def inputs(
    params: Sequence[SamplingParams],
    vocab: int,
    *,
    positions: Sequence[int] | None = None,
    forced: Sequence[int] | None = None,
    mask_rows: Sequence[int] | None = None,
    masks: Tensor | None = None,
) -> SamplerInputs:
    rows = SamplerRows(len(params) + 3)  # a buffer is larger than a step
    for row, one in enumerate(params):
        rows.put(
            row,
            one,
            positions[row] if positions else row,
            forced[row] if forced else -1,
            mask_rows[row] if mask_rows else -1,
        )
    return rows.send(len(params), bits([], vocab) if masks is None else masks)


def bits(allowed: Sequence[set[int]], vocab: int) -> Tensor:
    """Masks that allow these ids; bits beyond the vocabulary are set, as llguidance may leave them."""
    words = -(-vocab // 32)
    rows = [
        [sum(1 << bit for bit in range(32) if (id := 32 * word + bit) >= vocab or id in row) for word in range(words)]
        for row in allowed
    ]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), words).to(torch.int32)


def draws(logits: Sequence[float], count: int, **params: Any) -> Counter[int]:
    """Tokens of `count` positions."""
    rows = [SamplingParams(**params)] * count
    return Counter(sample(torch.tensor([logits] * count), inputs(rows, len(logits))).tolist())


# --- what may be drawn ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 1.0, "top_k": 1}], ids=["cold", "top-1"])
def test_the_largest_logit_is_taken_and_the_smallest_id_of_equal_ones(params: dict[str, Any]) -> None:
    assert draws([0.0, 3.0, -1.0, 3.0], 50, **params) == {1: 50}


def test_a_greedy_row_is_the_same_among_rows_that_draw() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 0.0]] * 3)
    cold, warm, top = SamplingParams(temperature=0.0), SamplingParams(seed=3), SamplingParams(top_k=1)
    alone, mixed = inputs([cold, top, cold], 4), inputs([cold, warm, top], 4)
    assert alone.greedy
    assert not mixed.greedy
    assert sample(logits, alone).tolist() == [1, 1, 1]
    assert sample(logits, mixed)[[0, 2]].tolist() == [1, 1]


WEIGHTS = st.lists(st.integers(1, 4), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(0, 14), st.integers(1, 100), st.integers(0, 2**64 - 1))
def test_candidates_are_the_first_k_and_the_fewest_that_reach_p(
    weights: list[int], top_k: int, percent: int, seed: int
) -> None:
    order = sorted(range(len(weights)), key=lambda id: (-weights[id], id))[: top_k or None]
    whole = sum(weights[id] for id in order)
    # Half a weight off any sum, so that the last digit of a share decides nothing.
    top_p = min(1.0, (math.floor(percent / 100 * whole) + 0.5) / whole)
    kept: list[int] = []
    while order and sum(weights[id] for id in kept) < top_p * whole:
        kept.append(order.pop(0))
    # The rarest has a share of at least 1 in 45: 1,500 draws miss it once in 4e14 cases.
    assert set(draws([math.log(weight) for weight in weights], 1500, top_k=top_k, top_p=top_p, seed=seed)) == set(kept)


def test_equal_logits_at_the_border_of_top_k_are_cut_by_id() -> None:
    assert set(draws([1.0, 1.0, 1.0, 1.0], 300, top_k=2)) == {0, 1}
    assert set(draws([0.0, 1.0, 1.0, 1.0], 300, top_k=3, top_p=0.6)) == {1, 2}


def test_who_reaches_p_exactly_is_the_last() -> None:
    assert set(draws([0.0, 0.0], 300, top_p=0.5)) == {0}
    assert set(draws([0.0, 0.0, 0.0, 0.0], 300, top_p=0.75)) == {0, 1, 2}


def test_a_draw_on_a_border_belongs_to_the_token_behind_it() -> None:
    row, half = torch.zeros(2, 2), torch.full((2,), 0.5, dtype=torch.float64)
    whole = torch.ones(2)
    draw = half - torch.tensor([0.0, 2.0**-53], dtype=torch.float64)
    assert _drawn(row, whole, whole, torch.zeros(2, dtype=torch.int32), draw[None]).tolist() == [1, 0]


def test_the_sum_of_many_small_shares_is_exact() -> None:
    """20,000 of them, each less than a float32 near 1 can tell: 1.1 in a thousand together."""
    logits = torch.tensor([[0.0] + [-16.7] * 20_000])
    one = torch.ones(1)
    bits = 53 - (20_001 - 1).bit_length()
    small = round(float(logits[0, 1].exp()) * 2.0**bits)
    for share in (0.9985, 0.999, 0.9995, 1 - 2**-53):
        draw = torch.tensor([[share]], dtype=torch.float64)
        id = int(_drawn(logits, one, one, torch.zeros(1, dtype=torch.int32), draw)[0])
        total = 2**bits + 20_000 * small
        assert id == max(0, 1 + (min(math.floor(share * total), total - 1) - 2**bits) // small)


def test_an_id_that_top_p_does_not_keep_falls_away_with_all_behind_it() -> None:
    # 2, 0 and 1 stand in this order with 4, 2 and 2 of 8; 0.5 keeps 2 alone. 0.3 takes 1, then 0.3 of six is 0.
    logits, half = torch.tensor([[2.0, 2.0, 4.0]]).log(), torch.tensor([0.5])
    draws = torch.tensor([[0.3], [0.3], [0.9]], dtype=torch.float64)
    drawn = [
        int(_drawn(logits, torch.ones(1), top_p, torch.zeros(1, dtype=torch.int32), draws[:turns])[0])
        for top_p, turns in ((torch.ones(1), 1), (torch.tensor([0.7]), 2), (half, 3))
    ]
    assert drawn == [1, 0, 2]


def test_shares_are_the_same_however_often_top_p_refuses() -> None:
    weights = [1, 3, 1, 2, 1, 1, 1] + [1] * 20
    drawn = draws([math.log(weight) for weight in weights], 20_000, top_p=5.5 / sum(weights), seed=3)
    assert set(drawn) == {0, 1, 3}  # 3 and 2 and the first of those with 1
    for id, share in ((0, 1 / 6), (1, 3 / 6), (3, 2 / 6)):
        assert drawn[id] / 20_000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 20_000))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature: float) -> None:
    logits = [0.0, 1.0, 2.0, -1.0, 0.5]
    count = 20_000
    shares = torch.softmax(torch.tensor(logits) / temperature, 0).tolist()
    drawn = draws(logits, count, temperature=temperature, seed=11)
    for id, share in enumerate(shares):
        assert drawn[id] / count == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / count))


def test_shares_after_the_cuts_are_those_of_what_is_left() -> None:
    count = 20_000
    drawn = draws([math.log(w) for w in (8, 4, 2, 1, 1)], count, top_k=3, top_p=0.8)
    assert set(drawn) == {0, 1}  # 8 and 4 of 14 reach 0.8
    assert drawn[0] / count == pytest.approx(2 / 3, abs=0.014)


def test_a_token_far_below_the_largest_is_never_drawn_and_nothing_breaks() -> None:
    assert draws([0.0, -1e30, -math.inf], 200, temperature=100.0) == {0: 200}
    assert draws([5.0, 0.0], 200, temperature=1e-6) == {0: 200}


@pytest.mark.parametrize("row", [[-math.inf] * 5, [math.nan] * 5, [math.inf, 0, 0, 0, 0]], ids=["none", "nan", "inf"])
@pytest.mark.parametrize("params", [{}, {"temperature": 0.0}, {"top_p": 0.5}])
def test_a_broken_row_gives_some_token_and_leaves_the_others_alone(row: list[float], params: dict[str, Any]) -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0, 2.0, 0.5], row])
    ids = sample(logits, inputs([SamplingParams(), SamplingParams(**params)], 5))
    assert int(ids[1]) == 0
    assert ids[:1].tolist() == sample(logits[:1], inputs([SamplingParams()], 5)).tolist()


# --- masks and forced ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [5, 32, 33, 100, 1280])
@pytest.mark.parametrize("greedy", [True, False])
def test_a_mask_allows_what_it_says_to_the_rows_that_name_it(vocab: int, greedy: bool) -> None:
    logits = torch.randn(300, vocab, generator=torch.Generator().manual_seed(0))
    allowed = [{0, vocab - 1}, {vocab // 2}]
    mask_rows = [(-1, 0, 1)[row % 3] for row in range(300)]
    rows = [SamplingParams(temperature=0.0 if greedy else 1.0, top_p=0.9)] * 300
    free = sample(logits, inputs(rows, vocab)).tolist()
    ids = sample(logits, inputs(rows, vocab, mask_rows=mask_rows, masks=bits(allowed, vocab))).tolist()
    assert ids[::3] == free[::3]
    assert set(ids[1::3]) == allowed[0]
    assert set(ids[2::3]) == allowed[1]


def test_a_forced_id_stands_above_the_mask() -> None:
    rows = [SamplingParams(), SamplingParams(), SamplingParams(temperature=0.0)]
    given_ = inputs(rows, 40, forced=[13, -1, 0], mask_rows=[0, 0, 0], masks=bits([{5}], 40))
    assert sample(torch.zeros(3, 40), given_).tolist() == [13, 5, 0]
    assert not given_.greedy
    assert inputs([SamplingParams()], 40, forced=[3]).greedy  # nothing to draw


def test_a_row_that_is_written_again_forgets_what_it_held() -> None:
    rows = SamplerRows(1)
    rows.put(0, SamplingParams(), 4, forced_id=3, mask_row=0)
    rows.send(1, bits([{5}], 40))
    rows.put(0, SamplingParams(temperature=0.0), 5)
    sent = rows.send(1, bits([], 40))
    assert sample(torch.eye(1, 40), sent).tolist() == [0]
    assert sent.greedy


@pytest.mark.parametrize(("rows", "words"), [(2, 2), (3, 1)])
def test_inputs_of_other_sizes_are_refused(rows: int, words: int) -> None:
    sent = inputs([SamplingParams()] * rows, 40, masks=torch.zeros(0, words, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"expected inputs for 3 rows and masks \[rows, 2\]"):
        sample(torch.zeros(3, 40), sent)


# --- nothing but the row ----------------------------------------------------------------------------------------

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.2, 1.0, 1.7]),
    top_p=st.sampled_from([0.3, 0.95, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 50]),
    seed=st.integers(-(2**63), 2**64 - 1),
)
ROWS = st.lists(
    st.tuples(PARAMS, st.integers(0, 2**40), st.integers(-1, 2), st.sampled_from([-1, -1, 7]), st.integers(0, 99)),
    min_size=2,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_a_row_alone_is_the_row_in_any_batch(rows: list[Any], random: Any) -> None:
    vocab = 77
    masks = bits([{1, 2, 3}, set(range(40, 70)), {76}], vocab)
    # Steps of a quarter make equal logits common, as bf16 does.
    table = torch.randn(100, vocab, generator=torch.Generator().manual_seed(1)).mul(4).round().div(4)

    def ids(chosen: Sequence[Any]) -> list[int]:
        params, positions, mask_rows, forced, which = zip(*chosen, strict=True)
        sent = inputs(params, vocab, positions=positions, forced=forced, mask_rows=mask_rows, masks=masks)
        return sample(table[list(which)], sent).tolist()

    together = ids(rows)
    assert together == [ids([row])[0] for row in rows]
    shuffled = random.sample(range(len(rows)), len(rows))
    assert ids([rows[at] for at in shuffled]) == [together[at] for at in shuffled]


def test_seed_and_position_decide() -> None:
    logits = torch.zeros(64, 1000)
    same = [SamplingParams(seed=5)] * 64
    assert len(set(sample(logits, inputs(same, 1000, positions=[9] * 64)).tolist())) == 1
    assert len(set(sample(logits, inputs(same, 1000)).tolist())) > 50
    seeds = [SamplingParams(seed=seed) for seed in range(64)]
    assert len(set(sample(logits, inputs(seeds, 1000, positions=[9] * 64)).tolist())) > 50


def test_draws_are_those_of_yesterday() -> None:
    """A change here changes the answers to every request with a seed."""
    logits = torch.linspace(-2, 2, 1000).repeat(6, 1)
    rows = [SamplingParams(seed=seed, top_p=0.95, temperature=0.6) for seed in (0, 1, -1, 2**63, 2**64 - 1, 42)]
    assert sample(logits, inputs(rows, 1000)).tolist() == [862, 940, 643, 982, 923, 827]


# --- no waiting for the device ----------------------------------------------------------------------------------


@pytest.mark.parametrize("greedy", [True, False])
def test_sampling_waits_for_nothing(greedy: bool) -> None:
    rows = [SamplingParams(temperature=0.0 if greedy else 0.6, top_p=0.9, top_k=5)] * 4
    logits, masks = torch.randn(4, 100), bits([{1, 2}], 100)
    staged = SamplerRows(4)
    with NoSync():
        for row, params in enumerate(rows):
            staged.put(row, params, row, forced_id=row - 2, mask_row=row - 3)
        logprob(logits, sample(logits, staged.send(4, masks)))


# --- logarithms of probabilities --------------------------------------------------------------------------------


def test_a_logprob_is_the_models_own() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(2)) * 5
    ids = torch.tensor([0, 49, 3, 3, 7, 20])
    expected = torch.log_softmax(logits.double(), -1)[torch.arange(6), ids]
    torch.testing.assert_close(logprob(logits.bfloat16(), ids).double(), expected, atol=0.1, rtol=0)
    torch.testing.assert_close(logprob(logits, ids).double(), expected, atol=1e-5, rtol=0)
