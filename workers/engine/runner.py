"""The device's side of a step: `launch` runs encoders and the forward pass, `sample` draws, `collect` brings the ids.

    launch n + 1 | collect n | sample n + 1 | launch n + 2 | ...

The ids of step n lie in `last_token` and feed the forward pass of n + 1 before anybody has read them; the host reads
them while that pass runs, and sends masks and forced ids before n + 1 is sampled. On the CPU the same calls run one
after another. Nothing here waits for the device but `collect`.

On the GPU encoders run on a stream of their own beside the forward pass of the same step; the next one waits for them.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from workers.engine.batch import LAST_SAMPLED, Batch, Launch, Piece
from workers.engine.embeddings import Embeddings, Encoders, Look
from workers.engine.grammar import Constraint, MaskRows
from workers.engine.graphs import Graphs
from workers.engine.kernels.logprob import logprob
from workers.engine.memory.reservation import Memory
from workers.engine.memory.state import Limits, State
from workers.engine.plan import Pass, Plan, Row
from workers.engine.sampler import SamplerRows, sample
from workers.engine.sampling import SamplingParams
from workers.engine.scheduler import Budgets


class Model(Encoders, Protocol):
    """What the runner runs; see `OmniModel`."""

    def forward(self, launch: Launch, state: State) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row is sampled.

    Attributes:
        position: of the token that is drawn, in its sequence.
        forced_id: what it has to be, or -1.
    """

    params: SamplingParams
    position: int
    forced_id: int = -1
    constraint: Constraint | None = None


@dataclass(slots=True)
class Handle:
    """A step on the device.

    Attributes:
        slots: [samples] int64, state slots of the rows that sample.
        ids: [samples] int64 on the host, valid once `done`.
        counts: rows that stay of each pruned video whose last part ran, on the host likewise.
    """

    plan: Plan
    logits: Tensor | None = None
    slots: Tensor | None = None
    ids: Tensor | None = None
    logprobs: Tensor | None = None
    counts: list[tuple[Pass, Tensor]] = field(default_factory=list)
    done: torch.cuda.Event | None = None


@dataclass(frozen=True, slots=True)
class Collected:
    """What a step brought: an id, and where asked for its log-probability, for each row that samples; see `Handle`."""

    ids: list[int]
    logprobs: list[float]
    counts: list[tuple[Pass, list[int]]]


def limits_of(memory: Memory, budgets: Budgets) -> Limits:
    """The tensors that fit the pools, with slot 0 and block 0 for padding."""
    return Limits(
        slots=memory.slots.count + 1,
        blocks=memory.blocks.count + 1,
        block=memory.block_size,
        window=budgets.window,
        media_rows=memory.pages.count * memory.page_size,
    )


class Runner:
    """Owns the tensors of a step. One thread."""

    def __init__(
        self, model: Model, state: State, memory: Memory, budgets: Budgets, *, vocab_size: int, look: Look
    ) -> None:
        self._model, self._state, self._window = model, state, budgets.window
        device, slots = state.last_token.device, memory.slots.count
        blocks = -(-budgets.context // memory.block_size)
        self._page_size = memory.page_size
        self._batch = Batch(
            tokens=budgets.tokens, sequences=slots, blocks=blocks, block=memory.block_size, device=device
        )
        self._embeddings = Embeddings(model, state.media, memory.page_size, look)
        self._rows = SamplerRows(slots, device)
        self._masks = MaskRows(slots, vocab_size, device)
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._side is not None:
            self._side.wait_stream(torch.cuda.current_stream(device))  # weights and empty pools are on their way
        self._sent: torch.cuda.Event | None = None
        self._graphs: Graphs | None = None

    @property
    def device(self) -> torch.device:
        return self._state.last_token.device

    @torch.no_grad()
    def capture(self) -> None:
        """Steps in which everybody decodes are replayed from now on. Before the first step."""
        self._graphs = Graphs(self._model, self._state, self._batch, len(self._state.last_token) - 1)

    @torch.no_grad()
    def encode(self, handle: Handle, one: Pass) -> None:
        """Runs one encoder pass of the step."""
        with self._beside():
            counts = self._embeddings.run(one)
            if counts is not None:
                handle.counts.append((one, self._to_host(counts)))

    @torch.no_grad()
    def launch(self, handle: Handle) -> None:
        """Runs the forward pass of the step. The one before may still run."""
        plan = handle.plan
        if not plan.rows:
            return
        if self._sent is not None:
            self._sent.synchronize()  # the last copy out of the batch's host memory, long done
        pieces, decodes = [self._piece(row) for row in plan.rows], plan.decodes
        size = self._graphs.size_for(decodes) if self._graphs is not None and decodes == len(pieces) else None
        launch = self._batch.fill(
            pieces[:decodes], pieces[decodes:], pad_decodes=size or 0, pad_samples=size is not None
        )
        self._sent = self._mark()
        if self._graphs is None or size is None:
            self._forward(handle, launch)
        else:
            handle.logits, handle.slots = self._graphs.replay(size)[:decodes], launch.state_slot[:decodes]

    @torch.no_grad()
    def sample(self, handle: Handle, draws: Sequence[Draw], *, logprobs: bool = False) -> None:
        """Draws the next tokens of the step, in the order of its rows. The step before must have been collected."""
        if draws:
            assert handle.logits is not None and handle.slots is not None
            ids = sample(handle.logits, self._rows.send(len(draws), self._put(draws)))
            self._state.last_token[handle.slots] = ids
            handle.logprobs = self._to_host(logprob(handle.logits, ids)) if logprobs else None
            handle.ids = self._to_host(ids)
        handle.logits = handle.slots = None
        if self._side is not None and handle.plan.passes:
            # What this step encoded may be read by the next, and `done` then means all of the step.
            torch.cuda.current_stream(self.device).wait_stream(self._side)
        handle.done = self._mark()

    def collect(self, handle: Handle) -> Collected:
        """Waits for the step."""
        if handle.done is not None:
            handle.done.synchronize()
        return Collected(
            ids=[] if handle.ids is None else handle.ids.tolist(),
            logprobs=[] if handle.logprobs is None else handle.logprobs.tolist(),
            counts=[(one, counts.tolist()) for one, counts in handle.counts],
        )

    def free(self) -> None:
        """After the device had no memory left: gives back what nobody uses."""
        if self._side is not None:
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()

    def _forward(self, handle: Handle, launch: Launch) -> None:
        handle.logits = self._model.forward(launch, self._state)
        sequence = torch.searchsorted(launch.query_start, launch.sample_row, right=True) - 1
        handle.slots = launch.state_slot[sequence]

    def _piece(self, row: Row) -> Piece:
        one, held = row.sequence, row.sequence.held
        assert held is not None
        media = bool(one.items) and not row.decodes
        return Piece(
            token_ids=[LAST_SAMPLED] if row.decodes else one.tokens[row.start : row.end],
            start=row.start,
            state_slot=held.slot,
            blocks=held.blocks,
            sample=row.samples,
            window_len=row.window_len,
            flush=not row.decodes or row.window_len + 1 == self._window,
            media_rows=one.rows(row.start, row.count, self._page_size) if media else (),
        )

    def _put(self, draws: Sequence[Draw]) -> Tensor:
        """Fills the sampler's rows; the masks on the device."""
        masked = 0
        for row, draw in enumerate(draws):
            mask_row = -1
            if draw.constraint is not None and draw.constraint.active:
                draw.constraint.fill(self._masks.host, masked)
                mask_row, masked = masked, masked + 1
            self._rows.put(row, draw.params, draw.position, draw.forced_id, mask_row)
        return self._masks.send(masked)

    def _beside(self) -> AbstractContextManager[object]:
        return nullcontext() if self._side is None else torch.cuda.stream(self._side)

    def _to_host(self, values: Tensor) -> Tensor:
        if values.device.type == "cpu":
            return values
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return host.copy_(values, non_blocking=True)

    def _mark(self) -> torch.cuda.Event | None:
        if self._side is None:
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event
