"""Requests in, events out, step by step. One thread; `loop` gives it one.

A step is fill, launch, collect of the one before, sample:

    fill      the scheduler plans: who decodes, who prefills, what is encoded
    launch    encoders and forward pass of this step start on the device
    collect   the ids of the step before are read: text, stops, thoughts and grammars move on, ended ones leave
    sample    masks and forced ids of this step, which now are known, go to the device; it draws

So a stop is seen one step late: a sequence that ended is still in the step that was launched meanwhile, and what that
step draws for it is discarded.

What fails is told apart. An encoder pass or an output belongs to one request: it alone fails. When the device's memory
runs out, the newest request of the step fails and the others begin again (the same tokens come out). Any other fault
of a step takes everybody in flight with it, and the engine takes nothing any more.
"""

import time
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import repeat

import torch

from omni_jobs.errors import UsageError
from workers.engine.errors import EngineFailed, OutOfMemory, RequestFailed
from workers.engine.live import Live, Load, Stats
from workers.engine.output import Outputs
from workers.engine.plan import Plan
from workers.engine.request import Delta, FinishReason, Request, Result
from workers.engine.runner import Draw, Handle, Runner
from workers.engine.scheduler import Scheduler
from workers.engine.sequence import Sequence

Event = Delta | Result


class Engine:
    """
    Attributes:
        stats: counts since the start.
        failed: why it takes nothing any more; empty when well.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        outputs: Outputs,
        *,
        placeholders: Iterable[int] = (),
        entering: Callable[[list[str]], None] = lambda ids: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            placeholders: ids that stand for rows of media and for nothing else.
            entering: is told before each step which requests no finished step has carried yet.
            clock: of deadlines.
        """
        self._runner, self._scheduler, self._outputs = runner, scheduler, outputs
        self._placeholders = frozenset(placeholders)
        self._entering, self._clock = entering, clock
        self._live: dict[str, Live] = {}
        self._deadlines: list[tuple[float, int, str]] = []  # with the arrival: names only, for requests hold media
        self._pending: Handle | None = None
        self._events: list[Event] = []
        self._arrivals = 0
        self.stats = Stats()
        self.failed = ""

    @property
    def idle(self) -> bool:
        """Nothing is left to do or to tell."""
        return self._scheduler.idle and self._pending is None and not self._events

    @property
    def load(self) -> Load:
        memory, running = self._scheduler.memory, len(self._scheduler.running)
        waiting = max(0, len(self._live) - running)  # read from any thread, between two changes of a step
        return Load(running, waiting, memory.slots.free, memory.blocks.free, memory.pages.free)

    def prepare(self, request: Request) -> Live:
        """What `add` takes. May be called from any thread, and may take a second where there is a schema.

        Raises:
            UsageError: a prompt that the model cannot read, or a schema that cannot be guaranteed.
            NeverFits: it is larger than the engine.
        """
        vocab, ids = self._outputs.vocab_size, set(request.prompt_ids)
        if min(ids) < 0 or max(ids) >= vocab:
            raise UsageError(f"expected token ids of 0..{vocab - 1}, got {min(ids)}..{max(ids)}")
        if strange := (self._placeholders & ids) - {item.placeholder for item in request.media}:
            raise UsageError(f"expected media for the placeholder {min(strange)}, got none")
        sequence = Sequence(request)
        self._scheduler.refuse_too_large(sequence)
        return Live(sequence, self._outputs.begin(request))

    def add(self, live: Live) -> None:
        """Puts a request in line.

        Raises:
            EngineFailed: it takes nothing any more.
            UsageError: one with this id is in the engine.
        """
        sequence = live.sequence
        if self.failed:
            raise EngineFailed(f"the engine has failed: {self.failed}")
        if sequence.id in self._live:
            raise UsageError(f"expected an id that is not in the engine, got {sequence.id!r}")
        sequence.arrival, self._arrivals = self._arrivals, self._arrivals + 1
        self._scheduler.add(sequence)
        self._live[sequence.id] = live
        if (deadline_s := sequence.request.deadline_s) is not None:
            heappush(self._deadlines, (deadline_s, sequence.arrival, sequence.id))

    def abort(self, id: str) -> None:
        """Ends a request with what it has. An id that is not in the engine is no error."""
        if (live := self._live.get(id)) is not None:
            self._end(live, FinishReason.ABORTED)

    def step(self) -> list[Event]:
        """Runs one step, and tells what the one before brought."""
        try:
            self._expire()
            plan = self._scheduler.fill()
            if not plan and self._pending is None and not self._scheduler.idle:
                raise RuntimeError("nothing can run, though there is work")
            handle = self._launch(plan) if plan else None
            self._collect()
            self._pending = self._sample(handle) if handle is not None else None
        except Exception as error:
            self._break(error)
        events, self._events = self._events, []
        return events

    def check(self) -> None:
        """Every block, slot and page belongs to exactly one request that lives.

        Raises:
            PoolError: it does not.
        """
        self._scheduler.check()

    def _launch(self, plan: Plan) -> Handle | None:
        """Starts a step; None when the device had no memory for it."""
        self._entering(self._scheduler.entering(plan))
        self._scheduler.launched(plan)
        handle = Handle(plan)
        for one in plan.passes:
            if one.sequence.ended is not None:
                continue  # a pass before this one failed
            try:
                self._runner.encode(handle, one)
            except torch.AcceleratorError:
                raise  # whatever runs on the device may be at fault
            except Exception as error:
                self._fail(one.sequence, error)
        try:
            self._runner.launch(handle)
        except torch.OutOfMemoryError as error:
            return self._lose(plan, str(error))
        return handle

    def _collect(self) -> None:
        """Reads the step before."""
        handle, self._pending = self._pending, None
        if handle is None:
            return
        plan, brought = handle.plan, self._runner.collect(handle)
        for one, counts in brought.counts:
            if one.sequence.ended is None:
                one.sequence.layout(one.item, counts)
        sampled = [row.sequence for row in plan.rows if row.samples]
        for sequence, id, logprob in zip(sampled, brought.ids, brought.logprobs or repeat(None), strict=False):
            sequence.in_flight -= 1
            # The token of one that has ended meanwhile is the one too many.
            if sequence.ended is None:
                self._take(self._live[sequence.id], id, logprob)
        self._scheduler.collected(plan.number)
        self.stats.count(plan)

    def _sample(self, handle: Handle) -> Handle | None:
        """Draws what a step launched; None when the device had no memory for it."""
        sampled = [row for row in handle.plan.rows if row.samples]
        draws = [self._draw(row.sequence, row.end) for row in sampled]
        logprobs = any(row.sequence.request.logprobs for row in sampled)
        try:
            self._runner.sample(handle, draws, logprobs=logprobs)
        except torch.OutOfMemoryError as error:
            return self._lose(handle.plan, str(error))
        return handle

    def _draw(self, sequence: Sequence, position: int) -> Draw:
        params = sequence.request.sampling
        if sequence.ended is not None:
            return Draw(params, position)
        output = self._live[sequence.id].output
        return Draw(params, position, output.forced_id, output.constraint)

    def _take(self, live: Live, id: int, logprob: float | None) -> None:
        """One more id of a request."""
        sequence = live.sequence
        sequence.tokens.append(id)
        try:
            said = live.output.push(id, logprob)
        except Exception as error:
            self._fail(sequence, error)
            return
        self._events.append(Delta(sequence.id, (id,), said.pieces))
        if said.ended:
            self._end(live, FinishReason.STOP, said.stopped_by)
        elif sequence.output_len == sequence.request.sampling.max_tokens:
            self._end(live, FinishReason.LENGTH)

    def _expire(self) -> None:
        while self._deadlines and self._deadlines[0][0] <= self._clock():
            _, arrival, id = heappop(self._deadlines)
            live = self._live.get(id)
            if live is not None and live.sequence.arrival == arrival:  # not a later one of that name
                self._end(live, FinishReason.DEADLINE)

    def _end(
        self, live: Live, reason: FinishReason, stopped_by: int | str | None = None, error: Exception | None = None
    ) -> None:
        del self._live[live.id]
        if error is None:
            try:
                rest = live.output.finish(reason, stopped_by)
            except Exception as cause:
                reason, rest, error = FinishReason.ERROR, (), RequestFailed(f"{type(cause).__name__}: {cause}")
            if rest:
                self._events.append(Delta(live.id, (), rest))
        self._events.append(live.result(reason, stopped_by, error))
        self.stats.finished += 1
        self._scheduler.end(live.sequence, reason)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        """One request failed, the others go on."""
        message = f"{type(error).__name__}: {error}"
        if isinstance(error, torch.OutOfMemoryError):
            # Without the cause: its traceback would keep the tensors of what failed alive.
            self._end_with(sequence, OutOfMemory(message), None)
        else:
            self._end_with(sequence, RequestFailed(message), error)

    def _end_with(self, sequence: Sequence, failure: Exception, cause: Exception | None) -> None:
        failure.__cause__ = cause
        self._end(self._live[sequence.id], FinishReason.ERROR, error=failure)

    def _lose(self, plan: Plan, message: str) -> None:
        """A step was launched in part: nobody knows how far each state has come, so its sequences begin again."""
        self._collect()
        self._scheduler.collected(plan.number)
        self._runner.free()
        self.stats.lost += 1
        living = sorted((one for one in plan.sequences if one.ended is None), key=lambda one: one.arrival)
        if living:
            self._end_with(living[-1], OutOfMemory(f"no memory on the device, and the newest request: {message}"), None)
        self._scheduler.restart(living[:-1])

    def _break(self, error: Exception) -> None:
        """A step failed and nobody can say whose fault it was."""
        self.failed = f"{type(error).__name__}: {error}"
        self._pending = None
        for live in list(self._live.values()):
            self._end_with(live.sequence, EngineFailed(f"a step of the engine failed: {self.failed}"), error)
        self._scheduler.abandon()
