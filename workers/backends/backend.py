"""The one protocol between `infer` and whoever answers a unit.

A call holds one source: an answer may not depend on what else is being answered.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from workers.answers import ClipAnswer, PageAnswer, ReduceAnswer, SpanAnswer
from workers.inputs import Canonical

UnitAnswer = SpanAnswer | ClipAnswer | PageAnswer | ReduceAnswer


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answered; part of every result and of the key under which an answer is reused."""

    backend: str  # "embedded"
    models: dict[str, str]  # part -> model with version, such as {"speech": "whisper-base"}
    digest: str  # sha-256 over the weights of all parts
    # Seconds of one slot for a second of media (span, clip) or a page: what tenants are charged, and what is "enough".
    cost_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the backend does, and in plain sentences what it does not."""

    kinds: frozenset[str]  # unit kinds
    slots: int  # units it works on at once
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One unit to answer.

    Attributes:
        media: canonical media of the unit; None for `reduce`.
        options: `Options` of the job as JSON.
        rung: 0 at first; each rejection by a gate moves to the next way of asking.
        context: for `reduce`: the answers of the source, as {"segments": [...], "shots": [...], "pages": [...]}.
    """

    unit_id: str
    kind: str  # span, clip, page, reduce
    media: Canonical | None
    options: dict[str, Any]
    rung: int = 0
    context: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stats:
    running: int
    waiting: int
    answered: int


class Cancelled(Exception):
    """The future of a request that was cancelled raises this."""


class Unusable(Exception):
    """An answer came that cannot be read as one of its kind: asked again one rung up, as when a gate refuses it."""

    def __init__(self, gate: str, message: str) -> None:
        super().__init__(message)
        self.gate = gate


class Backend(Protocol):
    """Threads: `submit` and `cancel` may be called from any; answers come through the future."""

    def identity(self) -> Identity: ...

    def capabilities(self) -> Capabilities: ...

    def submit(self, request: Request) -> "Future[UnitAnswer]": ...

    def cancel(self, unit_id: str) -> None:
        """Stop as soon as possible; its future raises `Cancelled`. Unknown ids are no error."""
        ...

    def progress(self, unit_id: str) -> float:
        """0..1 of the unit, 0.0 when unknown; moves while the unit is alive."""
        ...

    def stats(self) -> Stats: ...

    def health(self) -> str:
        """Empty when well, else what is wrong."""
        ...

    def close(self) -> None: ...
