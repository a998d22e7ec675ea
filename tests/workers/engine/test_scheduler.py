"""What a step carries: whole numbers, no tensor."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_jobs.errors import UsageError
from tests.workers.engine.make import IMAGE, make_image, make_request
from workers.engine.errors import NeverFits
from workers.engine.memory.reservation import Memory
from workers.engine.plan import Plan
from workers.engine.request import FinishReason, Media, MediaKind, Part, Pruning, Request
from workers.engine.scheduler import Budgets, Scheduler
from workers.engine.sequence import Sequence


class Drive:
    """Steps a scheduler as an engine does, one behind, with an arithmetic device."""

    def __init__(
        self, *, blocks: int = 32, slots: int = 4, pages: int = 16, patience: int = 32, **budgets: int
    ) -> None:
        self.memory = Memory(blocks=blocks, block_size=4, slots=slots, pages=pages, page_size=2)
        given = {"tokens": 8, "encoder_flop": 20, "context": 64, **budgets}
        self.scheduler = Scheduler(self.memory, Budgets(**given), patience)
        self.arrivals = 0
        self.pending: Plan | None = None
        self.plans: list[Plan] = []

    def add(self, request: Request) -> Sequence:
        sequence = Sequence(request, self.arrivals)
        self.arrivals += 1
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> Plan:
        plan = self.scheduler.fill()
        if plan:
            self.scheduler.launched(plan)
            self.plans.append(plan)
        self.collect()
        self.pending = plan or None
        self.scheduler.check()
        return plan

    def collect(self) -> None:
        if self.pending is None:
            return
        for row in self.pending.rows:
            if row.samples:
                row.sequence.in_flight -= 1
            if row.samples and row.sequence.ended is None:
                row.sequence.tokens.append(1000)
                if len(row.sequence.outputs) == row.sequence.request.sampling.max_tokens:
                    self.scheduler.end(row.sequence, FinishReason.LENGTH)
        self.scheduler.collected(self.pending.number)
        self.pending = None

    def run(self) -> None:
        for _ in range(1000):
            if self.scheduler.idle and self.pending is None:
                self.memory.check()
                return
            self.step()
        raise AssertionError("it never ended")


def ids(plan: Plan) -> list[tuple[str, int, int]]:
    return [(row.sequence.id, row.start, row.count) for row in plan.rows]


def test_decoding_rows_come_first_and_prefill_takes_what_is_left() -> None:
    drive = Drive()
    drive.add(make_request("a", prompt=3))
    assert ids(drive.step()) == [("a", 0, 3)]
    drive.add(make_request("b", prompt=20))
    assert ids(drive.step()) == [("a", 3, 1), ("b", 0, 7)]
    assert ids(drive.step()) == [("a", 4, 1), ("b", 7, 7)]
    drive.run()


def test_only_the_last_chunk_of_a_prompt_samples() -> None:
    drive = Drive()
    drive.add(make_request("a", prompt=20, max_tokens=2))
    drive.run()
    assert [row.samples for plan in drive.plans for row in plan.rows] == [False, False, True, True]
    assert [row.decodes for plan in drive.plans for row in plan.rows] == [False, False, False, True]


def test_a_sequence_is_not_launched_for_more_tokens_than_it_may_have() -> None:
    drive = Drive()
    sequence = drive.add(make_request("a", prompt=1, max_tokens=5))
    drive.run()
    assert sum(row.samples for plan in drive.plans for row in plan.rows) == 5
    assert sequence.computed == 5  # the last token is never fed back


def test_windows_turn_over_and_begin_anew_after_a_prefill() -> None:
    drive = Drive(window=3)
    sequence = drive.add(make_request("a", prompt=2, max_tokens=6))
    seen = []
    for _ in range(6):
        drive.step()
        seen.append(sequence.window_len)
    assert seen == [0, 1, 2, 0, 1, 2]
    drive.run()


def test_what_ended_keeps_its_room_until_the_last_step_with_it_is_collected() -> None:
    drive = Drive()
    sequence = drive.add(make_request("a", prompt=2, max_tokens=9))
    drive.step()
    drive.step()
    drive.scheduler.end(sequence, FinishReason.ABORTED)
    assert drive.memory.slots.used == 1
    assert not drive.step()
    assert drive.memory.slots.used == 0
    assert drive.scheduler.idle


def test_what_ended_and_is_in_no_step_gives_its_room_back_at_once() -> None:
    drive = Drive()
    sequence = drive.add(make_request("a"))
    drive.scheduler.fill()
    drive.scheduler.end(sequence, FinishReason.ABORTED)
    assert drive.memory.slots.used == 0
    drive.memory.check()


def test_prefill_waits_for_the_rows_of_a_picture() -> None:
    drive = Drive()
    drive.add(make_request("a", prompt=4, images=(3, 2)))  # t IMAGE x 5 t t t
    first = drive.step()
    assert ids(first) == [("a", 0, 1)]  # the text in front
    assert [one.item.media.rows for one in first.passes] == [3, 2]
    assert ids(drive.step()) == [("a", 1, 8)]
    drive.run()


def test_encoder_passes_stay_within_their_budget_but_one_is_always_allowed() -> None:
    drive = Drive(encoder_flop=25)
    big, small = make_image(2, flop=90), make_image(2, flop=10)
    drive.add(replace(make_request("a", prompt=4, images=(2, 2, 2)), media=(big, small, small)))
    flops = [[one.flop for one in drive.step().passes] for _ in range(3)]
    assert flops == [[90], [10, 10], []]
    drive.run()


def test_passes_that_fit_may_go_ahead_of_one_that_does_not() -> None:
    drive = Drive(encoder_flop=25)
    images = (make_image(2, flop=20), make_image(2, flop=20), make_image(2, flop=5))
    drive.add(replace(make_request("a", prompt=4, images=(2, 2, 2)), media=images))
    assert [[one.flop for one in drive.step().passes] for _ in range(2)] == [[20, 5], [20]]
    drive.run()


def test_parts_of_an_item_run_in_order_and_its_rows_wait_for_all() -> None:
    drive = Drive(encoder_flop=1)
    item = make_image(2, 2, 2)
    drive.add(replace(make_request("a", prompt=3, images=(6,)), media=(item,)))
    assert [[one.part for one in drive.step().passes] for _ in range(3)] == [[0], [1], [2]]
    assert ids(drive.step()) == [("a", 1, 8)]
    drive.run()


def test_rows_go_back_when_the_step_that_read_the_last_of_them_is_collected() -> None:
    drive = Drive(tokens=4)
    sequence = drive.add(make_request("a", prompt=2, images=(5,), max_tokens=5))
    assert drive.scheduler.fill().passes
    assert drive.memory.pages.used == 3
    used = []
    for _ in range(5):
        drive.step()
        used.append((sequence.computed, drive.memory.pages.used))
    assert used == [(1, 3), (5, 3), (7, 3), (8, 0), (9, 0)]
    drive.run()


def test_rows_of_a_pruned_video_may_be_read_once_they_are_laid_out() -> None:
    pruning = Pruning(0.5, start=1, before=((7, 21), (8, 9, 21)), after=(22,))
    video = Media(MediaKind.VIDEO, IMAGE, (Part(None, 4, 1), Part(None, 4, 1)), 4, pruning)
    first = (1, *pruning.layout([4, 0], IMAGE), 2)
    drive = Drive(tokens=32)
    sequence = drive.add(Request("a", first, make_request().sampling, (video,)))
    assert ids(drive.step()) == [("a", 0, 3)]
    assert ids(drive.step()) == []  # the passes are launched, their choice is unknown
    item = sequence.items[0]
    sequence.layout(item, [3, 1])
    item.ready = True
    assert sequence.tokens == [1, 7, 21, IMAGE, IMAGE, IMAGE, 22, 8, 9, 21, IMAGE, 22, 2]
    plan = drive.step()
    assert ids(plan) == [("a", 3, 10)]
    assert sequence.held is not None
    base = [page * 2 + place for page in sequence.held.pages[0] for place in (0, 1)]
    assert sequence.rows(3, 10, 2) == [*base[:3], -1, -1, -1, -1, base[3], -1, -1]
    drive.run()


def test_rows_follow_the_pages_at_any_cut() -> None:
    drive = Drive()
    sequence = drive.add(make_request("a", prompt=2, images=(3, 4)))
    drive.scheduler.fill()
    whole = sequence.rows(0, 9, 2)
    assert whole[0] == whole[8] == -1
    assert len(set(whole[1:8])) == 7
    for cut in range(10):
        assert sequence.rows(0, cut, 2) + sequence.rows(cut, 9 - cut, 2) == whole


def test_a_large_request_is_passed_a_bounded_number_of_times() -> None:
    drive = Drive(blocks=8, slots=4, patience=3)
    drive.add(make_request("first", prompt=10, max_tokens=4))
    drive.step()
    large = drive.add(make_request("large", prompt=28, max_tokens=4))
    small = [drive.add(make_request(f"s{at}", prompt=2, max_tokens=2)) for at in range(9)]
    order: list[str] = []
    for _ in range(200):
        order += [one.id for one in drive.scheduler.running if one.id not in order]
        if drive.scheduler.idle:
            break
        drive.step()
    assert order[:5] == ["first", "s0", "s1", "s2", "large"]
    assert len(order) == 11
    assert large.ended is not None
    assert all(one.ended for one in small)


def test_without_patience_the_line_is_strict() -> None:
    drive = Drive(blocks=8, patience=0)
    drive.add(make_request("a", prompt=10, max_tokens=4))
    drive.add(make_request("b", prompt=28, max_tokens=4))
    drive.add(make_request("c", prompt=2, max_tokens=2))
    drive.step()
    assert [one.id for one in drive.scheduler.running] == ["a"]
    drive.run()


def test_what_lost_its_step_begins_again_in_front_with_all_it_knows() -> None:
    drive = Drive(tokens=32)
    sequence = drive.add(make_request("a", prompt=3, images=(2,), max_tokens=6))
    behind = drive.add(make_request("b", prompt=3, max_tokens=9))
    for _ in range(4):
        drive.step()
    drive.collect()
    known = list(sequence.tokens)
    assert len(sequence.outputs) == 3
    drive.scheduler.restart([sequence])
    drive.scheduler.check()
    assert sequence.tokens == known
    plan = drive.step()
    assert [one.sequence.id for one in plan.passes] == ["a"]
    assert ids(plan) == [("b", behind.computed - 1, 1), ("a", 0, 1)]
    assert ids(drive.step())[-1] == ("a", 1, len(known) - 1)
    drive.run()
    assert len(sequence.outputs) == 6


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (make_request(prompt=61, max_tokens=4), "positions"),
        (make_request(prompt=40, max_tokens=4), "KV blocks of 4 positions"),
        (make_request(prompt=2, images=(9,)), "embedding pages of 2 rows"),
    ],
)
def test_what_can_never_run_is_refused(request_: Request, what: str) -> None:
    drive = Drive(blocks=8, pages=4)
    with pytest.raises(NeverFits, match=what):
        drive.add(request_)
    assert drive.scheduler.idle


def test_a_budget_under_which_not_all_could_decode_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 tokens, got 3"):
        Drive(tokens=3)


@pytest.mark.parametrize(
    "ids", [(1, IMAGE, 2), (1, IMAGE, IMAGE, IMAGE, 2), (1, 2, 3)], ids=["too few", "too many", "none"]
)
def test_placeholders_must_match_the_media(ids: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"expected 2 placeholders for the rows of 1 media"):
        Sequence(Request("a", ids, make_request().sampling, (make_image(2),)), 0)


def test_placeholders_must_stand_in_the_order_of_the_media() -> None:
    sound = Media(MediaKind.SOUND, 27, (Part(None, 1, 1),), 1)
    with pytest.raises(UsageError, match="expected the placeholder 27 of sound at 1"):
        Sequence(Request("a", (1, IMAGE, 27, 2), make_request().sampling, (sound, make_image(1))), 0)


REQUESTS = st.lists(
    st.builds(
        make_request,
        prompt=st.integers(1, 30),
        max_tokens=st.integers(1, 9),
        images=st.lists(st.integers(1, 8), max_size=3).map(tuple),
    ),
    max_size=12,
)


@settings(max_examples=50, deadline=None)
@given(REQUESTS, st.integers(4, 40), st.integers(1, 40), st.integers(0, 3), st.integers(1, 4), st.data())
def test_any_schedule_stays_in_its_budgets_and_ends_clean(
    requests: list[Request], tokens: int, flop: int, patience: int, window: int, data: st.DataObject
) -> None:
    drive = Drive(tokens=tokens, encoder_flop=flop, patience=patience, window=window)
    sequences: list[Sequence] = []
    while requests or not drive.scheduler.idle:
        for _ in range(data.draw(st.integers(0, 3))):
            if requests:
                sequences.append(drive.add(requests.pop()))
        if (living := list(drive.scheduler)) and data.draw(st.integers(0, 9)) == 0:
            drive.scheduler.end(data.draw(st.sampled_from(living)), FinishReason.ABORTED)
        check_plan(drive.step(), tokens, flop)
    drive.memory.check()
    for one in sequences:
        assert one.held is None
        if one.ended is FinishReason.LENGTH:
            launched = [row for plan in drive.plans for row in plan.rows if row.sequence is one]
            assert [row.start for row in launched] == [0, *[row.end for row in launched[:-1]]]
            assert one.computed == len(one.tokens) - 1


def check_plan(plan: Plan, tokens: int, flop: int) -> None:
    assert plan.tokens <= tokens
    assert [row.decodes for row in plan.rows] == sorted((row.decodes for row in plan.rows), reverse=True)
    assert sum(one.flop for one in plan.passes) <= flop or len(plan.passes) == 1
    for row in plan.rows:
        assert row.sequence.held is not None
        assert row.end <= len(row.sequence.held.blocks) * 4
