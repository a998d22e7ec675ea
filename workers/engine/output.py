"""The host's side of an answer: its text, its stops, its thoughts, its grammar.

Fed with ids that were collected and with nothing else: what a step launched after the end is discarded before it comes
here, so no state has to be taken back.

Threads: `Outputs` may be used from several; an `Output` belongs to the engine's thread.
"""

from dataclasses import dataclass

from workers.engine.grammar import Constraint, Grammars
from workers.engine.request import FinishReason, Request
from workers.engine.stops import Stops
from workers.engine.thinking import Thinking, ThinkingRules
from workers.engine.tokenizer import Detokenizer, Tokenizer


class Outputs:
    """Begins the output of each request of one vocabulary."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """
        Args:
            vocab_size: logits of the model.
        """
        self.vocab_size = vocab_size
        self._tokenizer = tokenizer
        self._rules = ThinkingRules(tokenizer)
        self._grammars = Grammars(tokenizer, vocab_size)

    def begin(self, request: Request) -> "Output":
        """Compiles the request's schema, which may take a second: not in the engine's thread.

        Raises:
            SchemaError: the schema cannot be guaranteed.
        """
        params = request.sampling
        thinking = Thinking(
            self._rules, thinking=request.thinking, budget=params.thinking_budget, grace=params.thinking_grace
        )
        constraint = None
        if params.json_schema is not None:
            constraint = self._grammars.constrain(params.json_schema, thinking=request.thinking)
        return Output(request, Detokenizer(self._tokenizer), thinking, constraint)


@dataclass(frozen=True, slots=True)
class Said:
    """What one id added: text that may be shown, and whether it ended the answer."""

    pieces: tuple[str, ...]
    ended: bool = False
    stopped_by: int | str | None = None


class Output:
    """One answer.

    Attributes:
        pieces: everything shown so far.
        logprobs: of each id, where asked for.
        constraint: its grammar, if it has one.
    """

    def __init__(
        self, request: Request, detokenizer: Detokenizer, thinking: Thinking, constraint: Constraint | None
    ) -> None:
        self._params, self._logprobs = request.sampling, request.logprobs
        self._detokenizer = detokenizer
        self._thinking = thinking
        self._stops = Stops(request.sampling.stop)
        self.constraint = constraint
        self.pieces: list[str] = []
        self.logprobs: list[float] = []

    @property
    def forced_id(self) -> int:
        """What the next sampling has to give, or -1."""
        return self._thinking.forced_id

    def push(self, id: int, logprob: float | None = None) -> Said:
        """Takes in the next id.

        Raises:
            ValueError: the grammar does not allow it, or has given up.
        """
        if self._logprobs and logprob is not None:
            self.logprobs.append(logprob)
        thought = self._thinking.open
        self._thinking.advance([id])
        if id in self._params.stop_ids:
            return Said((), ended=True, stopped_by=id)
        self._constrain(id)
        pieces = self._detokenizer.push(id)
        # Stops are looked for behind the thoughts only; the token that ends a thought is still part of it.
        shown = pieces if thought else self._stops.push(pieces)
        self.pieces += shown
        whole = self.constraint is not None and self.constraint.is_done
        return Said(tuple(shown), whole or self._stops.found is not None, self._stops.found)

    def finish(self, reason: FinishReason, stopped_by: int | str | None) -> tuple[str, ...]:
        """The answer is over: what was held back, unless a stop text ended it."""
        if reason is FinishReason.STOP and isinstance(stopped_by, str):
            return ()
        rest = [*self._stops.push(self._detokenizer.finish()), *self._stops.finish()]
        self.pieces += rest
        return tuple(rest)

    def _constrain(self, id: int) -> None:
        if self.constraint is None:
            return
        allowed = self.constraint.advance(id)
        if self.constraint.error is not None:
            raise ValueError(f"the grammar of the answer gave up: {self.constraint.error}")
        if not allowed:
            raise ValueError(f"expected a token that the grammar allows, got {id}")
