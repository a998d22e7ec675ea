"""A request while it is in the engine, and what the engine counts."""

from dataclasses import dataclass

from workers.engine.output import Output
from workers.engine.plan import Plan
from workers.engine.request import FinishReason, Result, Usage
from workers.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Live:
    """Where the device is with it, and what it has said so far."""

    sequence: Sequence
    output: Output

    @property
    def id(self) -> str:
        return self.sequence.id

    @property
    def progress(self) -> float:
        """0..1 of the positions it may come to."""
        return min(1.0, self.sequence.computed / self.sequence.need.positions)

    def result(self, reason: FinishReason, stopped_by: int | str | None, error: Exception | None) -> Result:
        sequence = self.sequence
        usage = Usage(
            prompt_tokens=len(sequence.request.prompt_ids),
            completion_tokens=sequence.output_len,
            media_tokens=sum(item.tokens for item in sequence.request.media),
        )
        return Result(
            id=self.id,
            ids=tuple(sequence.outputs),
            pieces=tuple(self.output.pieces),
            finish_reason=reason,
            usage=usage,
            stopped_by=stopped_by,
            logprobs=tuple(self.output.logprobs),
            error=error,
        )


@dataclass(frozen=True, slots=True)
class Load:
    """Who is in the engine now, and what is free."""

    running: int
    waiting: int
    free_slots: int
    free_blocks: int
    free_pages: int


@dataclass(slots=True)
class Stats:
    """Counts since the start.

    Attributes:
        steps: those that were collected; moves while the engine works.
        lost: steps that ran out of memory.
    """

    steps: int = 0
    prefilled: int = 0
    decoded: int = 0
    passes: int = 0
    finished: int = 0
    lost: int = 0

    def count(self, plan: Plan) -> None:
        """One more step."""
        self.steps += 1
        self.decoded += plan.decodes
        self.prefilled += plan.tokens - plan.decodes
        self.passes += len(plan.passes)
