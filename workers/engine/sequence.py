"""One request inside the engine: its tokens, how far the device has come, and what it holds.

Two clocks run in a sequence. The device's: `computed` positions have been launched. The host's: `tokens` are known.
Between them lies at most one step, because a sampled id goes straight into the next launch and is read one step later:

    tokens      [ prompt ............. | outputs ... ]            known on the host
    in_flight                                         [ + 1 ]     sampled on the device, not yet read
    computed    [ ............................... ]               in the KV cache and the Mamba state

A sequence is in prefill up to `prompt_end`, then it decodes: one position a step, whose token the device has.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from omni_jobs.errors import UsageError
from workers.engine.memory.reservation import Need, Reservation
from workers.engine.request import FinishReason, Media, Request

TEXT = -1  # in place of an embedding row, as in `Batch`


@dataclass(slots=True, eq=False)
class Item:
    """A media item on its way through an encoder.

    Attributes:
        at: prompt positions of its placeholders, ascending.
        launched: parts whose pass has been launched.
        ready: its rows may be read by a launch from now on.
        read: the newest step that read a row of it, once all are read; the rows go back when that one is collected.
    """

    media: Media
    at: list[int]
    launched: int = 0
    ready: bool = False
    read: int | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """
    Attributes:
        arrival: its number in the order of arrival, once it has arrived.
        tokens: prompt, then outputs that were collected.
        prompt_end: positions to prefill: the prompt, after a restart also the outputs so far.
        computed: positions that were launched.
        in_flight: sampled ids that were not collected; 0 or 1 between steps.
        window_len: rows in the window of its Mamba states.
        first_step, last_step: the steps that carried it first and last. Until the last one is collected, it keeps what
            it holds.
        ended: why it takes part in no further step.
    """

    request: Request
    arrival: int = -1
    tokens: list[int] = field(init=False)
    items: list[Item] = field(init=False)
    prompt_end: int = 0
    computed: int = 0
    in_flight: int = 0
    window_len: int = 0
    held: Reservation | None = None
    first_step: int | None = None
    last_step: int = -1
    ended: FinishReason | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt_ids)
        self.restart()

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def outputs(self) -> list[int]:
        return self.tokens[len(self.request.prompt_ids) :]

    @property
    def output_len(self) -> int:
        return len(self.tokens) - len(self.request.prompt_ids)

    @property
    def need(self) -> Need:
        positions = len(self.request.prompt_ids) + self.request.sampling.max_tokens
        return Need(positions, tuple(media.rows for media in self.request.media))

    @property
    def to_prefill(self) -> int:
        return max(0, self.prompt_end - self.computed)

    @property
    def decodes(self) -> bool:
        """A step can carry its next position, and another output is wanted."""
        known = len(self.tokens) + self.in_flight
        wanted = self.output_len + self.in_flight < self.request.sampling.max_tokens
        return wanted and self.prompt_end <= self.computed < known

    @property
    def readable(self) -> int:
        """Where prefill has to stop for now: the first placeholder whose row is not there."""
        return next((item.at[0] for item in self.items if not item.ready), self.prompt_end)

    def restart(self) -> None:
        """Back to the first position, with everything known so far as the prompt. Holds nothing."""
        at = places(self.request, self.tokens)
        self.items = [Item(*item) for item in zip(self.request.media, at, strict=True)]
        self.prompt_end = len(self.tokens)
        self.computed = self.in_flight = self.window_len = 0
        self.held = None

    def layout(self, item: Item, counts: list[int]) -> None:
        """The rows of a pruned video are chosen: its text moves to where they are, and they may be read."""
        pruning = item.media.pruning
        assert pruning is not None
        ids = pruning.layout(counts, item.media.placeholder)
        self.tokens[pruning.start : pruning.start + len(ids)] = ids
        item.at = [at for at, id in enumerate(ids, pruning.start) if id == item.media.placeholder]
        item.ready = True

    def rows(self, start: int, count: int, page_size: int) -> list[int]:
        """Embedding rows of `count` positions from `start` on; `TEXT` where there is none."""
        assert self.held is not None
        rows = [TEXT] * count
        for item, pages in zip(self.items, self.held.pages, strict=True):
            for nth in range(bisect_left(item.at, start), bisect_left(item.at, start + count)):
                rows[item.at[nth] - start] = pages[nth // page_size] * page_size + nth % page_size
        return rows


def places(request: Request, tokens: list[int]) -> list[list[int]]:
    """The positions of the placeholders of each media item.

    Raises:
        UsageError: more or fewer of them, or others, than the media have rows.
    """
    placeholders = {item.placeholder for item in request.media}
    found = [at for at, id in enumerate(tokens[: len(request.prompt_ids)]) if id in placeholders]
    if len(found) != (rows := sum(item.tokens for item in request.media)):
        raise UsageError(f"expected {rows} placeholders for the rows of {len(request.media)} media, got {len(found)}")
    ends = list(accumulate((item.tokens for item in request.media), initial=0))
    at = [found[start:end] for start, end in pairwise(ends)]
    for item, its in zip(request.media, at, strict=True):
        if strange := [one for one in its if tokens[one] != item.placeholder]:
            raise UsageError(f"expected the placeholder {item.placeholder} of {item.kind} at {strange[0]}, got another")
    return at
