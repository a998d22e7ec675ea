"""Asks the backend for one unit, and stores what it says."""

import hashlib
import math
from concurrent.futures import wait
from typing import Any

from omni_jobs.errors import ErrorType, Problem, SourceError
from omni_jobs.failpoints import reach
from omni_jobs.job import Pool, UnitKind
from omni_jobs.options import Options
from omni_jobs.store import units
from omni_jobs.store.claims import Claimed
from omni_jobs.store.units import NewUnit
from workers import gates
from workers.answers import SpanAnswer
from workers.backends.backend import Cancelled, Request, UnitAnswer, Unusable
from workers.context import CancelledUnit, Context, Rejected
from workers.inputs import RATE_HZ, Canonical, CanonicalAudio, CanonicalClip, CanonicalPage
from workers.speech.activity import uncovered

POLL_S = 0.1
REDO_AT_LEAST_S = 1.5
# Positions of follow-ups begin here, above those of the spans they follow.
REDO_POSITION = 1_000_000


def run(unit: Claimed, context: Context) -> set[Pool]:
    """Answer a span, clip, page or reduce unit.

    Raises:
        Rejected: a gate refused the answer, or nobody could read it.
    """
    answer = _ask(unit, context)
    reach("infer.answered")
    _judge(unit, answer)
    follow = _follow(unit, answer) if isinstance(answer, SpanAnswer) else []
    return context.finish(answer.model_dump(mode="json"), follow=follow)


def _ask(unit: Claimed, context: Context) -> UnitAnswer:
    backend = context.parts.backend
    assert backend is not None
    if unit.kind.value not in backend.capabilities().kinds:
        raise SourceError(ErrorType.UNSUPPORTED, f"the backend {backend.identity().backend} does not do {unit.kind}")
    request = Request(
        unit_id=unit.unit_id,
        kind=unit.kind.value,
        media=media_of(unit, context) if unit.kind is not UnitKind.REDUCE else None,
        options=Options.stored(unit.options).effective(),
        rung=_rung(unit),
        context=_outputs(unit, context) if unit.kind is UnitKind.REDUCE else {},
    )
    future = backend.submit(request)
    seen = -1.0
    # Not `result` with a timeout: a backend may raise a TimeoutError of its own.
    while not wait([future], POLL_S).done:
        if context.cancel.is_set():
            backend.cancel(unit.unit_id)
        elif (progress := backend.progress(unit.unit_id)) != seen:
            seen = progress
            context.report(progress)
    try:
        return future.result()
    except Cancelled as error:
        raise CancelledUnit from error
    except Unusable as error:
        raise _rejected(unit, error.gate, str(error), None) from error


def _rung(unit: Claimed) -> int:
    """How it is asked: one rung up for each rejection, from where it began."""
    return max(unit.rung, int(unit.input.get("rung", 0)))


def _judge(unit: Claimed, answer: UnitAnswer) -> None:
    start_s, end_s = unit.input.get("start_s", 0.0), unit.input.get("end_s", math.inf)
    verdict = gates.check(unit.kind.value, answer, start_s=start_s, end_s=end_s)
    if verdict is not None:
        raise _rejected(unit, verdict.gate, verdict.message, answer.model_dump(mode="json"))


def _rejected(unit: Claimed, gate: str, message: str, answer: dict[str, Any] | None) -> Rejected:
    problem = Problem(ErrorType.UNREADABLE, f"the answer was refused ({gate}): {message}")
    return Rejected(gate, answer, problem, last=_rung(unit) >= gates.LADDER[unit.kind.value])


def media_of(unit: Claimed, context: Context) -> Canonical:
    """The canonical media of a unit; of a redone stretch, that part of its span."""
    data, put = context.parts.blobs.get(unit.input["blob"]), unit.input.get("sha256")
    if put is not None and hashlib.sha256(data).hexdigest() != put:
        raise SourceError(ErrorType.UNREADABLE, "the object store gave other bytes than were put", retryable=True)
    match unit.kind:
        case UnitKind.CLIP:
            return CanonicalClip.from_bytes(data)
        case UnitKind.PAGE:
            return CanonicalPage.from_bytes(data)
        case _:
            start_s, blob_start_s = unit.input["start_s"], unit.input.get("blob_start_s", unit.input["start_s"])
            audio = CanonicalAudio.from_bytes(data, blob_start_s)
            first = round((start_s - blob_start_s) * RATE_HZ)
            last = round((unit.input["end_s"] - blob_start_s) * RATE_HZ)
            return CanonicalAudio(audio.samples[first:last], start_s)


def _outputs(unit: Claimed, context: Context) -> dict[str, Any]:
    """What was answered for the source of a reduce unit."""
    found = units.answers(context.parts.db, unit.job_id, unit.revision, unit.source_id)
    done = [one for one in found if one["state"] == "done" and one["answer"]]
    segments = [segment for one in done if one["kind"] == "span" for segment in one["answer"]["segments"]]
    shots = [shot for one in done if one["kind"] == "clip" for shot in one["answer"]["shots"]]
    pages = [
        {"page": one["input"]["page"], "text": "\n\n".join(block["text"] for block in one["answer"]["blocks"])}
        for one in done
        if one["kind"] == "page"
    ]
    return {
        "segments": sorted(segments, key=lambda segment: segment["start_s"]),
        "shots": sorted(shots, key=lambda shot: shot["start_s"]),
        "pages": sorted(pages, key=lambda page: page["page"]),
    }


def _follow(unit: Claimed, answer: SpanAnswer) -> list[NewUnit]:
    """The words of a span are aligned next; without words, or without that wish, missed speech is redone at once."""
    if answer.segments and unit.options.get("word_times", True):
        keep = ("start_s", "end_s", "blob", "sha256", "blob_start_s", "speech", "redo_of")
        input = {name: unit.input[name] for name in keep if name in unit.input} | {"of": unit.unit_id}
        amount = unit.input["end_s"] - unit.input["start_s"]
        return [NewUnit(UnitKind.WORDS, unit.source_id, unit.position, input, amount)]
    return redo(unit, [(segment.start_s, segment.end_s) for segment in answer.segments])


def redo(unit: Claimed, covered: list[tuple[float, float]]) -> list[NewUnit]:
    """Speech that was heard and that nothing covers, as spans of their own, once."""
    if unit.input.get("redo_of"):
        return []
    speech = [(start_s, end_s) for start_s, end_s in unit.input.get("speech", ())]
    missed = uncovered(speech, covered, at_least_s=REDO_AT_LEAST_S)
    blob_start_s = unit.input.get("blob_start_s", unit.input["start_s"])
    return [
        NewUnit(
            UnitKind.SPAN,
            unit.source_id,
            REDO_POSITION + unit.position * 1000 + index,
            {
                "start_s": start_s,
                "end_s": end_s,
                "blob": unit.input["blob"],
                "sha256": unit.input.get("sha256"),
                "blob_start_s": blob_start_s,
                "speech": [[start_s, end_s]],
                "redo_of": unit.input.get("of", unit.unit_id),
                "rung": 1,
            },
        )
        for index, (start_s, end_s) in enumerate(missed[:999])
    ]
