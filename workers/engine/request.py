"""What goes into the engine and what comes out of it: `Request`, `Result` and their parts. No state.

A prompt is token ids in which every embedding row of a media item has its placeholder. `Prefetch` makes one out of
messages and canonical media.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from omni_jobs.errors import UsageError
from workers.engine.sampling import SamplingParams


class MediaKind(StrEnum):
    """Which encoder, and how: an image, pairs of frames, or windows of sound."""

    IMAGE = "image"
    VIDEO = "video"
    SOUND = "sound"


@dataclass(frozen=True, slots=True)
class Part:
    """What one pass of an encoder takes. An item is cut into parts that a step can carry.

    Attributes:
        features: as the encoder of the kind takes them; the engine only hands them on.
        rows: embedding rows that come out.
        flop: what the pass costs, for the second budget of a step.
    """

    features: Any
    rows: int
    flop: int


@dataclass(frozen=True, slots=True)
class Pruning:
    """A video of which only a part of the rows stays (EVS). Which ones is known when its last part has run.

    Their number is fixed and so is the length of the prompt, but the text between the tubelets moves.

    Attributes:
        rate: share of the rows to drop.
        start: prompt position where the text of the video begins.
        before: ids in front of the rows of each tubelet.
        after: ids behind them.
    """

    rate: float
    start: int
    before: tuple[tuple[int, ...], ...]
    after: tuple[int, ...]

    def layout(self, counts: Sequence[int], placeholder: int) -> list[int]:
        """Ids of the whole video when `counts` rows of each tubelet stay."""
        parts = ([*head, *[placeholder] * count, *self.after] for head, count in zip(self.before, counts, strict=True))
        return [id for part in parts for id in part]


@dataclass(frozen=True, slots=True)
class Media:
    """One image, video or sound of a prompt.

    Attributes:
        placeholder: the id that stands for one row.
        tokens: rows that stay, as many as it has placeholders; all that its parts make, unless `pruning` drops some.
    """

    kind: MediaKind
    placeholder: int
    parts: tuple[Part, ...]
    tokens: int
    pruning: Pruning | None = None

    @property
    def rows(self) -> int:
        """Rows that its encoder makes."""
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how to continue it.

    Attributes:
        id: unique among those in the engine; also the name in the flight record.
        media: in the order in which their placeholders appear.
        thinking: the prompt opened a thought.
        logprobs: the result says how likely each output was.
        deadline_s: when to give up, on the clock of the engine (`time.monotonic`).

    Raises:
        UsageError: an empty prompt, media of another number of tokens than rows, or a deadline that is no number.
    """

    id: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    media: tuple[Media, ...] = ()
    thinking: bool = False
    logprobs: bool = False
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise UsageError("expected a prompt of at least one token, got none")
        if self.deadline_s is not None and math.isnan(self.deadline_s):
            raise UsageError("expected a deadline in seconds, got NaN")
        for item in self.media:
            if item.tokens < 1 or (item.tokens != item.rows and item.pruning is None) or item.tokens > item.rows:
                raise UsageError(f"expected as many tokens as rows of {item.kind}, got {item.tokens} of {item.rows}")


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"  # a stop id, a stop text, or the end of what the grammar allows
    LENGTH = "length"  # as many tokens as were asked for
    ABORTED = "aborted"  # the caller gave up
    DEADLINE = "deadline"  # its time was over
    ERROR = "error"  # it failed; `Result.error` says why


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request.

    Attributes:
        prompt_tokens: placeholders included.
        completion_tokens: the stop id included.
        media_tokens: how many of the prompt's stand for rows of media.
    """

    prompt_tokens: int
    completion_tokens: int
    media_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to a request.

    Attributes:
        pieces: whole characters, and control tokens as `Control`; text that may become a stop is held back.
    """

    id: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """How a request ended.

    Attributes:
        ids: every output, the stop id included.
        pieces: their text, control tokens as `Control`, without the stop id, and nothing from a stop text on.
        stopped_by: the stop id or the stop text, if one ended it.
        logprobs: natural logarithm of what the model gave each output; empty unless the request asked.
    """

    id: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    finish_reason: FinishReason
    usage: Usage
    stopped_by: int | str | None = None
    logprobs: tuple[float, ...] = ()
    error: Exception | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)
