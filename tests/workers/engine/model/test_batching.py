"""Batching changes nothing: alone, in any mixture, cut anywhere, after others were aborted, in a slot used before."""

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.engine import oracle
from tests.workers.engine.parity import text
from tests.workers.engine.steps import SEQUENCES, Steps, Track

ANSWER = 6
Prompt = tuple[int, int]  # length and seed


@cache
def alone(prompt: Prompt) -> list[int]:
    """The greedy answer without company, the prompt in one piece."""
    steps = Steps(oracle.ours())
    track = steps.track(text(*prompt), slot=1)
    track.ids.append(int(steps.step(prefills=[(track, len(track.ids))])[0].argmax()))
    for _ in range(ANSWER - 1):
        track.ids.append(int(steps.step(decodes=[track])[0].argmax()))
    return track.ids[prompt[0] :]


class Crowd:
    """Sequences that come, run and go as the data say."""

    def __init__(self, draw: st.DataObject, prompts: list[Prompt], window: int, ring: int) -> None:
        self.data, self.waiting = draw, list(prompts)
        self.steps = Steps(oracle.ours(), window=window, ring=ring)
        self.free = list(range(1, SEQUENCES + 1))
        self.live: dict[int, tuple[Prompt, Track]] = {}
        self.answers: list[tuple[Prompt, list[int]]] = []

    def run(self) -> None:
        while self.waiting or self.live:
            if self.waiting and self.free and (not self.live or self.data.draw(st.booleans(), "admit")):
                prompt, slot = self.waiting.pop(), self.free.pop()
                self.live[slot] = prompt, self.steps.track(text(*prompt), slot)
            self._step()
            self._leave()

    def _step(self) -> None:
        tracks = [track for _, track in self.live.values()]
        acting = [one for one in tracks if self.data.draw(st.integers(0, 3), "acts")] or tracks[:1]
        decodes = [one for one in acting if 0 < one.computed == len(one.ids) - 1]
        prefills = [one for one in acting if one not in decodes]
        counts = [self.data.draw(st.integers(1, len(one.ids) - one.computed), "rows") for one in prefills]
        logits = self.steps.step(
            decodes,
            list(zip(prefills, counts, strict=True)),
            early_flush=self.data.draw(st.booleans(), "flush"),
            pad_decodes=self.data.draw(st.sampled_from([0, 4]), "decode padding"),
            pad_tokens=self.data.draw(st.sampled_from([0, 32]), "row padding"),
        )
        assert logits.isfinite().all()
        for track, row in zip([*decodes, *prefills], logits, strict=True):
            if track.computed == len(track.ids):
                track.ids.append(int(row.argmax()))

    def _leave(self) -> None:
        for slot, (prompt, track) in list(self.live.items()):
            answer = track.ids[prompt[0] :]
            if len(answer) == ANSWER:
                self.answers.append((prompt, answer))
            elif self.data.draw(st.integers(0, 19), "abort"):
                continue
            del self.live[slot]
            self.free.append(slot)


def test_the_answer_alone_is_the_published_one() -> None:
    prompt = (14, 0)
    ids = text(*prompt) + alone(prompt)
    assert oracle.logits(ids)[13:-1].argmax(-1).tolist() == alone(prompt)


@given(
    st.data(),
    st.lists(st.tuples(st.integers(1, 14), st.integers(0, 2)), min_size=2, max_size=6),
    st.integers(1, 4),
    st.integers(3, 6),
)
@settings(max_examples=12, deadline=None)
def test_an_answer_does_not_depend_on_its_company(
    data: st.DataObject, prompts: list[Prompt], window: int, ring: int
) -> None:
    crowd = Crowd(data, prompts, window, ring)
    crowd.run()
    for prompt, answer in crowd.answers:
        assert answer == alone(prompt)
    # Padding was computed in most steps, and wrote nothing.
    assert all(tensor[0].isnan().all() for tensor in crowd.steps.memory())
