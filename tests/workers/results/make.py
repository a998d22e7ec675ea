"""Sources and units as `assemble` takes them."""

from typing import Any

from omni_jobs.job import UnitKind, UnitState
from omni_jobs.result import Answerer, JobPart, Result, SourceResult
from workers.results.outcome import SourceOutcome, UnitOutcome

TIMEOUT = {"type": "timeout", "message": "no answer in 600 s", "retryable": True}


def make_source(*units: UnitOutcome, tasks: tuple[str, ...] = ("transcribe",), **changes: Any) -> SourceOutcome:
    values: dict[str, Any] = {
        "source_id": "s1",
        "name": "talk.mp3",
        "uri": "file:///talk.mp3",
        "sha256": "ab" * 32,
        "size_bytes": 1234,
        "medium": "audio",
        "container": "mp3",
        "duration_s": 60.0,
        "pages": None,
    }
    return SourceOutcome(**(values | changes), tasks=tasks, units=units)


def make_unit(kind: str, unit_id: str = "u1", *, error: dict[str, Any] | None = None, **changes: Any) -> UnitOutcome:
    state = UnitState.DEAD if error is not None else UnitState.DONE
    return UnitOutcome(**({"position": 0} | changes), unit_id=unit_id, kind=UnitKind(kind), state=state, error=error)


def spoken(*words: tuple[str, float, float], method: str = "whisper", **changes: Any) -> dict[str, Any]:
    """A segment of these words."""
    return {
        "start_s": words[0][1],
        "end_s": words[-1][2],
        "text": " ".join(text for text, _, _ in words),
        "words": [{"text": text, "start_s": low, "end_s": high, "method": method} for text, low, high in words],
    } | changes


def make_span(start_s: float, end_s: float, *segments: dict[str, Any], unit_id: str = "u1", language: str = "en",
              redo_of: str | None = None, error: dict[str, Any] | None = None) -> UnitOutcome:  # fmt: skip
    given: dict[str, Any] = {"start_s": start_s, "end_s": end_s}
    if redo_of is not None:
        given["redo_of"] = redo_of
    answer = None if error else {"language": language if segments else "", "segments": list(segments)}
    return make_unit("span", unit_id, input=given, answer=answer, error=error)


def make_words(of: str, *segments: list[tuple[str, float, float]], method: str = "alignment", reason: str = "",
               error: dict[str, Any] | None = None) -> UnitOutcome:  # fmt: skip
    words = [
        [{"text": text, "start_s": low, "end_s": high, "method": method, "confidence": 0.9} for text, low, high in one]
        for one in segments
    ]
    answer = None if error else {"method": method, "reason": reason, "segments": words}
    return make_unit("words", f"w-{of}", input={"of": of}, answer=answer, error=error)


def make_clip(start_s: float, end_s: float, *shots: dict[str, Any], unit_id: str = "c1",
              error: dict[str, Any] | None = None) -> UnitOutcome:  # fmt: skip
    given = {"start_s": start_s, "end_s": end_s}
    return make_unit("clip", unit_id, input=given, answer=None if error else {"shots": list(shots)}, error=error)


def make_page(
    page: int,
    *blocks: dict[str, Any],
    source: str = "text_layer",
    unread: str = "",
    error: dict[str, Any] | None = None,
) -> UnitOutcome:
    given = {"page": page, "width_pt": 595.0, "height_pt": 842.0}
    answer = None if error else {"source": source, "blocks": list(blocks), "unread": unread}
    return make_unit("page", f"p{page}", input=given, answer=answer, error=error)


def block(text: str, kind: str = "text", **changes: Any) -> dict[str, Any]:
    return {"kind": kind, "text": text, "box": [72, 72, 300, 90]} | changes


def make_result(*sources: SourceResult) -> Result:
    job = JobPart(job_id="j1", revision=1, state="succeeded", created_at="2025-01-01T00:00:00Z", options={})
    answerer = Answerer(backend="embedded", models={"speech": "base"}, digest="00", version="0.1.0")
    return Result(job=job, answered_by=answerer, sources=list(sources))
