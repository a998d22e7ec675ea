"""Ends a thought that has used up its budget, with ids that are forced on the sampler.

A budget ends the thought at the next line break; `grace` tokens later it is ended wherever it is. What ends it is
what the card's client writes there, `</think>` and an empty line, one id a step.

    OPEN --(</think> sampled)-------------------> ENDED
    OPEN --(budget used and line break, or
            budget and grace used)--> CLOSING --> ENDED      forced_id is the next of the queue

The host sees ids one step late but before the next sampling: forward n + 1 runs, ids of n are read, `advance` is told,
then `forced_id` is asked for sampling n + 1. So nothing here looks ahead.

Source: the card's budget client and its `thinking_token_budget`; that a line break within the grace is waited for is
how NVIDIA's own processor for the budget does it (NVIDIA-NeMo/Nemotron, tools/budget).
"""

from collections import deque
from collections.abc import Iterable

from workers.engine.tokenizer import END_THINK, THINK, Tokenizer

NOTHING = -1  # no id is forced


class ThinkingRules:
    """What the thoughts of every sequence have in common: which ids open, break and end them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.opens = tokenizer.control(THINK)
        self.ends = tokenizer.control(END_THINK)
        self.line_breaks = tokenizer.ids_ending_with(b"\n")
        self.closing = (self.ends, *tokenizer.encode("\n\n"))


class Thinking:
    """The thoughts of one sequence.

    Attributes:
        open: inside a thought now.
        used: tokens of thought so far.
    """

    def __init__(self, rules: ThinkingRules, *, thinking: bool, budget: int | None = None, grace: int = 0) -> None:
        """
        Args:
            thinking: the prompt opened a thought.
            budget: tokens; None never ends it.
            grace: tokens.
        """
        self._rules = rules
        self._budget = budget
        self._grace = grace
        self._queue: deque[int] = deque()
        self.open = thinking
        self.used = 0
        self._close_if_used_up(at_line_break=True)

    @property
    def forced_id(self) -> int:
        """The id that the next sampling has to give, or `NOTHING`."""
        return self._queue[0] if self._queue else NOTHING

    def advance(self, ids: Iterable[int]) -> None:
        """Takes in ids that were sampled, in order, forced ones among them."""
        for id in ids:
            self._take(id)

    def _take(self, id: int) -> None:
        if self._queue and id == self._queue[0]:
            self._queue.popleft()
            self.open = self.open and id != self._rules.ends
            return
        if id in (self._rules.opens, self._rules.ends):
            self.open = id == self._rules.opens
        elif self.open:
            self.used += 1
        self._close_if_used_up(at_line_break=id in self._rules.line_breaks)

    def _close_if_used_up(self, *, at_line_break: bool) -> None:
        if self._budget is None or not self.open or self._queue:
            return
        if self.used >= self._budget + self._grace or (self.used >= self._budget and at_line_break):
            self._queue.extend(self._rules.closing)
