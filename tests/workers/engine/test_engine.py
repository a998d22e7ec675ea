"""The engine over a fake model: what it answers, how it ends, how it fails."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from omni_jobs.errors import UsageError
from tests.workers.engine.make import (
    IMAGE,
    Rig,
    expected,
    make_image,
    make_request,
    make_rig,
    make_sound,
    make_video,
)
from workers.engine.errors import EngineFailed, NeverFits, OutOfMemory, RequestFailed
from workers.engine.request import FinishReason, Request
from workers.engine.tokenizer import Control

ONE_LETTER = {
    "type": "object",
    "properties": {"a": {"enum": ["b", "c"]}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("window", [1, 3])
def test_an_answer_is_what_the_model_says_without_an_engine(window: int) -> None:
    request = make_request(prompt=9, max_tokens=12)
    result = make_rig(tokens=4, window=window).run(request)["r"]
    assert (result.ids, result.finish_reason) == expected(request)
    assert result.usage.prompt_tokens == 9
    assert result.usage.completion_tokens == 12


def test_media_take_the_place_of_their_placeholders() -> None:
    request = replace(make_request(prompt=4, images=(5, 3)), media=(make_image(2, 3), make_image(3, first=40)))
    result = make_rig().run(request)["r"]
    assert (result.ids, result.finish_reason) == expected(request)
    assert result.usage.media_tokens == 8


def test_a_pruned_video_is_laid_out_by_what_stays_of_it() -> None:
    video, ids = make_video(2, tubelets=4, rows=3, rate=0.5, seed=3)
    sound = make_sound(2)
    request = Request("r", (1, 2, *ids, 3, 27, 27, 4), make_request().sampling, (video, sound))
    rig = make_rig(encoder_flop=8, tokens=5)
    assert rig.run(request)["r"].ids == expected(request)[0]
    moved = replace(request, media=(make_video(2, tubelets=4, rows=3, rate=0.5, seed=4)[0], sound))
    assert expected(moved) != expected(request)


def test_a_stop_id_ends_the_answer_and_is_no_text() -> None:
    first = expected(make_request(max_tokens=6))[0]
    request = make_request(max_tokens=6, stop_ids=(first[3],))
    rig = make_rig()
    result = rig.run(request)["r"]
    assert result.ids == first[: first.index(first[3]) + 1]
    assert (result.finish_reason, result.stopped_by) == (FinishReason.STOP, first[3])
    assert result.pieces == tuple(rig.shown("r"))
    assert result.text == make_rig().run(make_request(max_tokens=len(result.ids) - 1))["r"].text


def test_what_a_step_draws_after_the_end_is_discarded() -> None:
    """The token one too many would move a grammar, thoughts and text, and be counted."""
    first = expected(make_request(max_tokens=6))[0]
    rig = make_rig()
    rig.add(make_request(max_tokens=6, stop_ids=(first[2],)))
    steps = 0
    while not rig.engine.idle:
        rig.step()
        steps += 1
    assert rig.engine.stats.decoded == 3  # tokens 2 and 3, and the one too many
    assert rig.results()["r"].ids == first[:3]


def test_a_stop_text_ends_the_answer_before_it() -> None:
    whole = make_rig().run(make_request(max_tokens=30))["r"]
    assert not any(isinstance(piece, Control) for piece in whole.pieces)
    stop = whole.text[10:13]
    rig = make_rig()
    result = rig.run(make_request(max_tokens=30, stop=("never", stop)))["r"]
    assert (result.finish_reason, result.stopped_by) == (FinishReason.STOP, stop)
    assert result.text == whole.text[: whole.text.index(stop)] != ""
    assert "".join(rig.shown("r")) == result.text
    assert result.ids == whole.ids[: len(result.ids)]


SEEDED = {"temperature": 1.0, "seed": 7}


def test_a_schema_holds_the_answer_and_ends_it() -> None:
    request = make_request(max_tokens=60, json_schema=ONE_LETTER, **SEEDED)
    result = make_rig().run(request)["r"]
    assert (result.ids, result.finish_reason) == expected(request)
    assert result.text.replace(" ", "").replace("\n", "") in ('{"a":"b"}', '{"a":"c"}')
    assert result.finish_reason is FinishReason.STOP


def test_a_thought_is_ended_by_its_budget_and_the_grammar_begins_behind_it() -> None:
    request = replace(
        make_request(max_tokens=80, json_schema=ONE_LETTER, thinking_budget=5, thinking_grace=2, **SEEDED),
        thinking=True,
    )
    result = make_rig().run(request)["r"]
    assert (result.ids, result.finish_reason) == expected(request)
    end = result.pieces.index("</think>")
    assert isinstance(result.pieces[end], Control)
    assert result.ids.index(13) == 7
    assert "".join(result.pieces[end + 1 :]).strip().startswith("{")


def test_stop_texts_are_looked_for_behind_the_thoughts() -> None:
    request = replace(make_request(max_tokens=25, thinking_budget=8), thinking=True)
    whole = make_rig().run(request)["r"]
    end = whole.pieces.index("</think>")
    thought, said = "".join(whole.pieces[:end])[:3], "".join(whole.pieces[end + 1 :])[4:7]
    assert thought not in "".join(whole.pieces[end:])
    stopping = replace(request, sampling=replace(request.sampling, stop=(thought, said)))
    result = make_rig().run(stopping)["r"]
    assert result.stopped_by == said
    assert result.text == whole.text[: whole.text.index(said, whole.text.index("</think>"))]


def test_log_probabilities_come_with_the_ids_that_asked() -> None:
    rig = make_rig()
    asked = replace(make_request("a"), logprobs=True)
    results = rig.run(asked, make_request("b"))
    assert len(results["a"].logprobs) == len(results["a"].ids)
    assert all(-10 < one < 0 for one in results["a"].logprobs)
    assert results["b"].logprobs == ()


def test_deltas_add_up_to_the_result() -> None:
    rig = make_rig()
    result = rig.run(make_request(max_tokens=20, **SEEDED))["r"]
    deltas = [event for event in rig.events if event.id == "r" and event is not result]
    assert tuple(id for delta in deltas for id in delta.ids) == result.ids
    assert tuple(piece for delta in deltas for piece in delta.pieces) == result.pieces


# --- ends ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(7))
def test_an_abort_keeps_what_is_there_and_gives_everything_back(steps: int) -> None:
    rig = make_rig(tokens=4)
    request = make_request("a", prompt=8, max_tokens=30, images=(3,))
    rig.add(request, make_request("b", prompt=6))
    for _ in range(steps):
        rig.step()
    rig.engine.abort("a")
    results = rig.run()
    assert results["a"].finish_reason is FinishReason.ABORTED
    assert results["a"].ids == expected(request)[0][: len(results["a"].ids)]
    assert results["b"].ids == expected(make_request("b", prompt=6))[0]


def test_an_abort_of_somebody_unknown_is_no_error() -> None:
    rig = make_rig()
    rig.engine.abort("nobody")
    assert rig.engine.idle


def test_a_deadline_ends_who_runs_and_who_waits() -> None:
    rig = make_rig(slots=1)
    late = [replace(make_request(id, max_tokens=50), deadline_s=5.0) for id in ("runs", "waits")]
    rig.add(*late, make_request("later"))
    for _ in range(4):
        rig.step()
    rig.now[0] = 5.0
    results = rig.run()
    assert results["runs"].finish_reason is FinishReason.DEADLINE
    assert len(results["runs"].ids) == 3
    assert results["waits"].finish_reason is FinishReason.DEADLINE
    assert results["waits"].ids == ()
    assert results["later"].finish_reason is FinishReason.LENGTH


def test_a_deadline_of_one_that_ended_neither_keeps_its_media_nor_ends_a_later_one_of_its_name() -> None:
    rig, early = make_rig(), replace(make_request("a", images=(3,)), deadline_s=5.0)
    pixels = weakref.ref(early.media[0].parts[0].features.pixels)
    assert rig.run(early)["a"].finish_reason is FinishReason.LENGTH
    del early
    gc.collect()
    assert pixels() is None
    rig.now[0] = 5.0
    assert rig.run(replace(make_request("a"), deadline_s=9.0))["a"].finish_reason is FinishReason.LENGTH


def test_a_deadline_that_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a deadline in seconds, got NaN"):
        replace(make_request(), deadline_s=float("nan"))


# --- refusals -----------------------------------------------------------------------------------------------------


def test_what_can_never_fit_is_refused_at_once() -> None:
    with pytest.raises(NeverFits, match=r"expected at most 200 positions .* got 205"):
        make_rig().engine.prepare(make_request(prompt=5, max_tokens=200))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((1, 1280), r"expected token ids of 0\.\.1279, got 1\.\.1280"),
        ((1, IMAGE, 2), "expected media for the placeholder"),
    ],
)
def test_prompts_that_the_model_cannot_read_are_refused(ids: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_rig().engine.prepare(Request("r", ids, make_request().sampling))


def test_two_of_one_id_cannot_be_in_the_engine_at_once() -> None:
    rig = make_rig()
    rig.add(make_request("a"))
    with pytest.raises(UsageError, match="expected an id that is not in the engine, got 'a'"):
        rig.add(make_request("a"))
    rig.run()
    rig.run(make_request("a"))


# --- faults -------------------------------------------------------------------------------------------------------


def mixed(rig: Rig, steps: int = 4) -> None:
    rig.add(*(make_request(id, prompt=prompt, max_tokens=9) for id, prompt in (("a", 3), ("b", 7), ("c", 5))))
    for _ in range(steps):
        rig.step()


def test_a_failing_encoder_fails_its_request_alone() -> None:
    rig = make_rig()
    mixed(rig)
    rig.model.faults["encode"] = [ValueError("no such picture")]
    results = rig.run(make_request("image", images=(2, 2)))
    assert isinstance(results["image"].error, RequestFailed)
    assert "no such picture" in str(results["image"].error)
    assert results["image"].finish_reason is FinishReason.ERROR
    for id, prompt in (("a", 3), ("b", 7), ("c", 5)):
        assert results[id].ids == expected(make_request(id, prompt=prompt, max_tokens=9))[0]
    assert not rig.engine.failed


def test_an_encoder_that_makes_another_number_of_rows_fails_its_request() -> None:
    image = make_image(3)
    part = replace(image.parts[0], features=make_image(2).parts[0].features)
    results = make_rig().run(replace(make_request(images=(3,)), media=(replace(image, parts=(part,)),)))
    assert "expected 3 rows of image, got 2" in str(results["r"].error)


def test_a_failing_output_fails_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig()
    mixed(rig)
    monkeypatch.setattr(rig.engine._live["b"].output, "_detokenizer", None)
    results = rig.run()
    assert isinstance(results["b"].error, RequestFailed)
    assert results["a"].ids == expected(make_request("a", prompt=3, max_tokens=9))[0]
    assert results["c"].ids == expected(make_request("c", prompt=5, max_tokens=9))[0]


def test_an_output_that_cannot_be_finished_fails_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig()
    mixed(rig)
    monkeypatch.setattr(rig.engine._live["b"].output, "finish", lambda *args: [][0])
    rig.engine.abort("b")
    results = rig.run()
    assert isinstance(results["b"].error, RequestFailed)
    assert results["a"].ids == expected(make_request("a", prompt=3, max_tokens=9))[0]


@pytest.mark.parametrize("where", ["forward", "after"])
@pytest.mark.parametrize("window", [1, 4])
def test_out_of_memory_drops_the_newest_and_the_others_answer_as_before(where: str, window: int) -> None:
    """A step that broke off has advanced some states and not others: nothing of them may be used again."""
    rig = make_rig(window=window, tokens=6)
    mixed(rig, steps=5)
    rig.add(make_request("image", prompt=6, max_tokens=9, images=(3,)))
    for _ in range(2):
        rig.step()
    rig.model.faults[where] = [torch.OutOfMemoryError("17 GiB")]
    results = rig.run()
    dropped = [id for id, result in results.items() if result.error]
    assert dropped == ["image"]
    assert isinstance(results["image"].error, OutOfMemory)
    for id, prompt in (("a", 3), ("b", 7), ("c", 5)):
        assert results[id].ids == expected(make_request(id, prompt=prompt, max_tokens=9))[0]
    assert rig.engine.stats.lost == 1
    assert not rig.engine.failed


def test_what_began_again_answers_as_before_with_its_media() -> None:
    video, ids = make_video(1, tubelets=3, rows=2, rate=0.4)
    old = Request("old", (1, *ids, 2), make_request(max_tokens=8).sampling, (video,))
    rig = make_rig()
    rig.add(old)
    for _ in range(5):
        rig.step()
    rig.add(make_request("new"))
    rig.model.faults["forward"] = [torch.OutOfMemoryError("17 GiB")]
    results = rig.run()
    assert isinstance(results["new"].error, OutOfMemory)
    assert results["old"].ids == expected(old)[0]


def test_out_of_memory_in_sampling_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig()
    mixed(rig)
    run = rig.engine._runner.sample
    faults = [torch.OutOfMemoryError("17 GiB")]

    def fail_once(*args: object, **kwargs: object) -> None:
        if faults:
            raise faults.pop()
        run(*args, **kwargs)

    monkeypatch.setattr(rig.engine._runner, "sample", fail_once)
    results = rig.run()
    assert isinstance(results["c"].error, OutOfMemory)
    assert results["a"].ids == expected(make_request("a", prompt=3, max_tokens=9))[0]
    assert results["b"].ids == expected(make_request("b", prompt=7, max_tokens=9))[0]


def test_any_other_fault_takes_everybody_in_flight_and_the_engine_says_so() -> None:
    rig = make_rig(slots=2)
    mixed(rig)
    rig.model.faults["forward"] = [RuntimeError("an illegal address")]
    rig.step()
    results = rig.results()
    assert {id: type(result.error) for id, result in results.items()} == dict.fromkeys("abc", EngineFailed)
    assert isinstance(results["a"].error.__cause__, RuntimeError)
    assert rig.engine.failed == "RuntimeError: an illegal address"
    assert rig.engine.idle
    rig.memory.check()
    with pytest.raises(EngineFailed, match="an illegal address"):
        rig.add(make_request("later"))


# --- who was in question -------------------------------------------------------------------------------------------


def test_before_each_step_it_says_who_is_in_one_for_the_first_time() -> None:
    """The step before may still run when the next begins, so those who entered it are in question too."""
    rig = make_rig(slots=2)
    rig.add(make_request("a", max_tokens=3))
    rig.step()
    rig.add(make_request("b", max_tokens=9), make_request("c"))
    while not rig.engine.idle:
        rig.step()
    assert rig.entered[:5] == [["a"], ["a", "b"], ["b"], [], ["c"]]
