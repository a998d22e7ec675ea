"""What `assemble` is given: a source as its row says, and what became of each of its units."""

from dataclasses import dataclass, field
from typing import Any

from omni_jobs.job import UnitKind, UnitState


@dataclass(frozen=True, slots=True)
class UnitOutcome:
    """A unit after its last attempt.

    Attributes:
        input: span: {"start_s", "end_s", "speech": [[a, b], ...], "redo_of"?: unit id}; clip: {"start_s", "end_s"};
            page: {"page", "width_pt", "height_pt"}; words: {"of": unit id of its span}; speakers: {"start_s", "end_s"}.
        answer: the model of `workers.answers` for its kind as JSON, None when dead.
        kept: the best rejected answer, delivered with a warning where there is no other.
        error: {"type", "message", "retryable"} when dead.
    """

    unit_id: str
    kind: UnitKind
    position: int
    state: UnitState
    input: dict[str, Any] = field(default_factory=dict)
    answer: dict[str, Any] | None = None
    kept: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SourceOutcome:
    """A source as prepare found it.

    Attributes:
        gaps: [[medium, start_s, end_s, reason], ...] that decoding could not give, medium `speech` or `video`.
        speech: [[start_s, end_s], ...] where the detector heard speech.
        error: set when prepare refused the whole source.
        range_s: the part that was asked for, None for all of it.
    """

    source_id: str
    name: str
    uri: str
    sha256: str | None
    size_bytes: int | None
    medium: str | None
    container: str | None
    duration_s: float | None
    pages: int | None
    tasks: tuple[str, ...]
    gaps: tuple[tuple[str, float, float, str], ...] = ()
    speech: tuple[tuple[float, float], ...] = ()
    error: dict[str, Any] | None = None
    range_s: tuple[float, float | None] = (0.0, None)
    units: tuple[UnitOutcome, ...] = ()
