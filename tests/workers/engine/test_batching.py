"""Batching changes nothing: whatever runs beside a request, and wherever its prompt is cut, it gets the same tokens.

First over a fake model that notices every mistake, with an oracle that has no engine at all; then over the real model
with few weights, where alone is the oracle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.engine.make import (
    IMAGE,
    SOUND,
    Rig,
    expected,
    make_image,
    make_request,
    make_rig,
    make_sound,
    make_video,
)
from tests.workers.engine.tiny import alone, make_tiny_rig, tiny_requests
from workers.engine.request import FinishReason, Media, Request

# --- what is asked ---------------------------------------------------------------------------------------------------


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Text with media in it, greedy or drawn, with and without stops, a schema, thoughts that have a budget."""
    ids = [1000 + at for at in range(draw(st.integers(1, 20)))]
    media: list[Media] = []
    for kind in draw(st.lists(st.sampled_from(["image", "sound", "video"]), max_size=2)):
        rows = draw(st.integers(1, 5))
        if kind == "video":
            item, shown = make_video(len(ids), draw(st.integers(1, 4)), rows, 0.5, seed=rows)
        else:
            item, shown = (make_image(rows), [IMAGE] * rows) if kind == "image" else (make_sound(rows), [SOUND] * rows)
        media.append(item)
        ids += [*shown, 1200]
    thinking = draw(st.booleans())
    sampling = {
        "temperature": draw(st.sampled_from([0.0, 1.0])),
        "seed": draw(st.integers(0, 3)),
        "top_k": draw(st.sampled_from([0, 5])),
        "stop_ids": draw(st.sampled_from([(), tuple(range(1000, 1040))])),
        "json_schema": draw(st.sampled_from([None, {"enum": ["aa", "ab"]}])),
        "thinking_budget": draw(st.sampled_from([None, 3])) if thinking else None,
    }
    params = make_request(max_tokens=draw(st.integers(1, 14)), **sampling).sampling
    return Request("", tuple(ids), params, tuple(media), thinking=thinking)


@dataclass(frozen=True)
class Schedule:
    """When each request comes, how long until it is given up (-1: never), which steps are lost, what room there is."""

    arrivals: tuple[int, ...]
    aborts: tuple[int, ...]
    losses: tuple[int, ...]
    tokens: int
    encoder_flop: int
    slots: int
    blocks: int
    window: int
    patience: int


@st.composite
def schedules(draw: st.DrawFn, most: int) -> Schedule:
    slots = draw(st.integers(1, 4))
    return Schedule(
        arrivals=tuple(draw(st.lists(st.integers(0, 12), min_size=most, max_size=most))),
        aborts=tuple(draw(st.lists(st.sampled_from([-1, -1, -1, *range(1, 16)]), min_size=most, max_size=most))),
        losses=tuple(draw(st.lists(st.integers(1, 20), max_size=2))),
        tokens=draw(st.integers(slots, 24)),
        encoder_flop=draw(st.integers(1, 40)),
        slots=slots,
        blocks=draw(st.integers(24, 60)),
        window=draw(st.integers(1, 5)),
        patience=draw(st.integers(0, 3)),
    )


def run(rig: Rig, asked: Sequence[Request], schedule: Schedule) -> None:
    """Plays a schedule to its end; the pools are checked after every step."""
    for step in range(2000):
        for request, arrival, abort in zip(asked, schedule.arrivals, schedule.aborts, strict=False):
            if arrival == step:
                rig.add(request)
            if abort >= 0 and arrival + abort == step:
                rig.engine.abort(request.id)
        if step > 12 and rig.engine.idle:
            break
        if step in schedule.losses:
            rig.model.faults["after"] = [torch.OutOfMemoryError("planted")]
        rig.step()
    assert rig.engine.idle
    rig.memory.check()


# --- the fake model -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests(), min_size=1, max_size=6), schedules(6))
def test_an_answer_does_not_depend_on_what_runs_beside_it(asked: list[Request], schedule: Schedule) -> None:
    asked = [replace(request, id=str(at)) for at, request in enumerate(asked)]
    rig = make_rig(
        tokens=schedule.tokens, encoder_flop=schedule.encoder_flop, slots=schedule.slots, blocks=schedule.blocks,
        window=schedule.window, patience=schedule.patience,
    )  # fmt: skip
    run(rig, asked, schedule)
    results = rig.results()
    assert len(results) == len(asked)
    for request in asked:
        ids, reason = expected(request)
        result = results[request.id]
        if result.finish_reason is FinishReason.ABORTED or result.error is not None:
            assert result.ids == ids[: len(result.ids)]
        else:
            assert (result.ids, result.finish_reason) == (ids, reason)
    assert not rig.engine.failed


# --- the real model, few weights --------------------------------------------------------------------------------------


def test_the_requests_say_different_things() -> None:
    """Or the comparison would not tell one from another."""
    answers = [alone(at) for at in range(len(tiny_requests()))]
    assert len(set(answers)) == len(answers)
    assert all(len(set(one)) > 1 for one in answers)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.permutations(range(len(tiny_requests()))), schedules(len(tiny_requests())))
def test_the_real_model_answers_the_same_in_any_company(order: list[int], schedule: Schedule) -> None:
    rig = make_tiny_rig(
        tokens=schedule.tokens, encoder_flop=schedule.encoder_flop * 10**6, slots=schedule.slots,
        blocks=schedule.blocks + 30, window=schedule.window, patience=schedule.patience,
    )  # fmt: skip
    run(rig, [tiny_requests()[at] for at in order], schedule)
    results = rig.results()
    for at in order:
        result = results[tiny_requests()[at].id]
        if result.finish_reason is FinishReason.ABORTED or result.error is not None:
            assert result.ids == alone(at)[: len(result.ids)]
        else:
            assert result.ids == alone(at)


@pytest.mark.parametrize("at", [3, 4], ids=["recording", "film"])
@pytest.mark.parametrize("cut", [3, 5, 16, 17, 31])
def test_a_prompt_may_be_cut_anywhere(at: int, cut: int) -> None:
    request = tiny_requests()[at]
    rig = make_tiny_rig(tokens=cut, slots=1, encoder_flop=10**12, window=2)
    assert rig.run(request)[request.id].ids == alone(at)
