"""What the next step carries. Pure Python over whole numbers.

A step has two budgets. *Tokens*: every decoding sequence has one, what is left goes to prefill in the order of
admission, cut wherever the budget ends or a media row is not there yet. *FLOP*: encoder passes in the same order while
they fit; one pass is always allowed, or a picture larger than the budget would never be seen.

    add -> Line -> admit -> running -> (prefill, then decode) -> end -> leaving -> released

Nothing is evicted. Whoever ended keeps its reservation until the last step that carries it is collected: until then
the device may still write there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from workers.engine.admission import Line
from workers.engine.errors import NeverFits
from workers.engine.memory.reservation import Memory
from workers.engine.plan import Pass, Plan, Row
from workers.engine.request import FinishReason
from workers.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Budgets:
    """What one step carries at most.

    Attributes:
        tokens: positions; at least one for each state slot, so that everybody can decode.
        encoder_flop: of vision and sound.
        context: positions of one sequence, prompt and answer.
        window: rows that the Mamba states of a slot hold before they are written back; 1 writes each time.
    """

    tokens: int = 2048
    encoder_flop: int = 10**13
    context: int = 131_072
    window: int = 1


class Scheduler:
    """Every sequence of an engine, from arrival to release."""

    def __init__(self, memory: Memory, budgets: Budgets, patience: int = 32) -> None:
        if budgets.tokens < memory.slots.count:
            raise ValueError(f"expected a budget of at least {memory.slots.count} tokens, got {budgets.tokens}")
        self.memory, self.budgets = memory, budgets
        self.waiting = Line(patience)
        self.running: list[Sequence] = []  # in the order of admission
        self._leaving: list[Sequence] = []
        self._steps = 0
        self._collected = -1  # number of the newest step that was; no sequence of a newer one is done

    def __iter__(self) -> Iterator[Sequence]:
        """Everyone who has not ended."""
        yield from self.running
        yield from self.waiting

    @property
    def idle(self) -> bool:
        return not (self.running or self._leaving or len(self.waiting))

    def entering(self, plan: Plan) -> list[str]:
        """Ids of those that this step, or one that is not collected, carries for the first time."""
        carried = [one for one in self.running if one.first_step is not None and one.first_step > self._collected]
        new = [one for one in plan.sequences if one.first_step is None]
        return [one.id for one in carried + new]

    def refuse_too_large(self, sequence: Sequence) -> None:
        """
        Raises:
            NeverFits: it could not run even alone.
        """
        if sequence.need.positions > self.budgets.context:
            raise NeverFits("positions (prompt and max_tokens)", sequence.need.positions, self.budgets.context)
        self.memory.refuse_too_large(sequence.need)

    def add(self, sequence: Sequence) -> None:
        self.refuse_too_large(sequence)
        self.waiting.join(sequence)

    def fill(self) -> Plan:
        """Admits, and plans a step; empty when there is nothing to do."""
        self.running += self.waiting.admit(self.memory)
        rows = [Row(one, one.computed, 1, True, True, one.window_len) for one in self.running if one.decodes]
        rows += self._prefill(self.budgets.tokens - len(rows))
        return Plan(self._steps, tuple(rows), tuple(self._passes()))

    def launched(self, plan: Plan) -> None:
        """The device has the step: lengths, windows and media move on."""
        self._steps += 1
        for one in plan.sequences:
            one.first_step = plan.number if one.first_step is None else one.first_step
            one.last_step = plan.number
        for one in plan.passes:
            one.item.launched += 1
            # What a pruned video has kept is known when the step is collected, not before.
            one.item.ready = one.last and one.item.media.pruning is None
        for row in plan.rows:
            self._advance(row, plan.number)

    def collected(self, number: int) -> None:
        """The device is done with a step: what only it still needed is given back."""
        self._collected = number
        for sequence in self.running:
            for at, item in enumerate(sequence.items):
                if item.read == number and sequence.held is not None:
                    self.memory.give_rows(sequence.held, at)
        gone = [one for one in self._leaving if one.last_step <= number]
        self._leaving = [one for one in self._leaving if one.last_step > number]
        for one in gone:
            self._release(one)

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """Takes part in no further step. It keeps what it holds until the last one that carries it is collected."""
        sequence.ended = reason
        if sequence.held is None:
            self.waiting.leave(sequence)
            return
        self.running.remove(sequence)
        if sequence.last_step <= self._collected:
            self._release(sequence)
        else:
            self._leaving.append(sequence)

    def restart(self, sequences: list[Sequence]) -> None:
        """A step was lost before it was done: these begin again from their first position. No step may be in flight."""
        for one in sequences:
            self.running.remove(one)
            self._release(one)
            one.restart()
        self.waiting.rejoin(sequences)

    def abandon(self) -> None:
        """Everybody has ended and no step will be collected any more: everything is given back."""
        self.collected(self._steps)

    def check(self) -> None:
        """Every block, slot and page belongs to exactly one sequence that lives.

        Raises:
            PoolError: it does not.
        """
        self.memory.check([one.held for one in [*self.running, *self._leaving] if one.held is not None])

    def _prefill(self, room: int) -> Iterator[Row]:
        for one in self.running:
            count = min(room, one.readable - one.computed) if one.to_prefill else 0
            if count > 0:
                yield Row(one, one.computed, count, False, one.computed + count == one.prompt_end)
                room -= count

    def _passes(self) -> Iterator[Pass]:
        spent, room = 0, self.budgets.encoder_flop
        for sequence in self.running:
            for item in sequence.items:
                for part in range(item.launched, len(item.media.parts)):
                    flop = item.media.parts[part].flop
                    if spent and spent + flop > room:
                        break
                    spent += max(1, flop)
                    yield Pass(sequence, item, part)

    def _advance(self, row: Row, number: int) -> None:
        one = row.sequence
        one.computed = row.end
        one.in_flight += row.samples
        one.window_len = (one.window_len + 1) % self.budgets.window if row.decodes else 0
        for item in () if row.decodes else one.items:
            if item.read is None and item.at[-1] < row.end:
                item.read = number

    def _release(self, sequence: Sequence) -> None:
        assert sequence.held is not None
        self.memory.release(sequence.held)
        sequence.held = None
