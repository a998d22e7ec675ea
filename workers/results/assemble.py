"""One result out of a source's units. Pure: the same units give the same result, in whatever order they come."""

from dataclasses import replace
from typing import Any

from omni_jobs.errors import ErrorType
from omni_jobs.job import Task, UnitKind, UnitState
from omni_jobs.result import (
    Block,
    Caption,
    Captions,
    Document,
    Failure,
    OnScreen,
    Page,
    SourceResult,
    Summary,
    SummarySentence,
)
from workers.answers import ClipAnswer, PageAnswer, ReduceAnswer, ShotAnswer
from workers.results.clean import clean
from workers.results.coverage import coverage_of
from workers.results.outcome import SourceOutcome, UnitOutcome
from workers.results.speakers import told_apart
from workers.results.transcript import transcript_of


def assemble(source: SourceOutcome) -> SourceResult:
    source = _storable(source)
    whole = source.error is None
    transcript = None
    if whole and Task.TRANSCRIBE in source.tasks:
        transcript = told_apart(transcript_of(source), source.units)
    captions = _captions(source) if whole and Task.CAPTION in source.tasks else None
    document = _document(source) if whole and Task.DOCUMENT in source.tasks else None
    return SourceResult(
        source_id=source.source_id,
        name=source.name,
        uri=source.uri,
        sha256=source.sha256,
        size_bytes=source.size_bytes,
        medium=source.medium,
        container=source.container,
        duration_s=source.duration_s,
        pages=source.pages,
        tasks=list(source.tasks),
        transcript=transcript,
        captions=captions,
        document=document,
        summary=_summary(source) if whole else None,
        coverage=coverage_of(source, transcript, captions, document),
        error=_failure(source.error) if source.error is not None else None,
    )


def _storable(source: SourceOutcome) -> SourceOutcome:
    """The source without characters that a row or a file would refuse."""
    units = tuple(
        replace(unit, answer=clean(unit.answer), kept=clean(unit.kept), error=clean(unit.error))
        for unit in source.units
    )
    return replace(source, name=clean(source.name), uri=clean(source.uri), error=clean(source.error), units=units)


def _answered(source: SourceOutcome, kind: UnitKind) -> list[UnitOutcome]:
    """Units of a kind with an answer, or else with a rejected one, in the order of the source."""
    found = [unit for unit in source.units if unit.kind is kind and (unit.answer or unit.kept) is not None]
    return sorted(found, key=lambda unit: (unit.input.get("page", unit.input.get("start_s", 0)), unit.position))


def _captions(source: SourceOutcome) -> Captions:
    answers = [ClipAnswer.model_validate(unit.answer or unit.kept) for unit in _answered(source, UnitKind.CLIP)]
    shots = sorted((shot for answer in answers for shot in answer.shots), key=lambda shot: (shot.start_s, shot.end_s))
    return Captions(captions=[_caption(shot) for shot in shots])


def _caption(shot: ShotAnswer) -> Caption:
    return Caption(
        start_s=round(shot.start_s, 3),
        end_s=round(shot.end_s, 3),
        text=shot.text.strip(),
        sound=shot.sound,
        on_screen=[
            OnScreen(text=seen.text, box=seen.box, time_s=round(seen.time_s, 3), confidence=seen.confidence)
            for seen in shot.on_screen
        ],
        evidence=shot.evidence,
    )


def _document(source: SourceOutcome) -> Document:
    return Document(pages=[_page(unit) for unit in _answered(source, UnitKind.PAGE)])


def _page(unit: UnitOutcome) -> Page:
    answer = PageAnswer.model_validate(unit.answer or unit.kept)
    blocks = [
        Block(
            kind=block.kind,
            box=block.box,
            text=block.text.strip() or _cells(block.rows),
            rows=block.rows,
            confidence=block.confidence,
        )
        for block in answer.blocks
    ]
    return Page(
        page=unit.input["page"],
        width_pt=unit.input["width_pt"],
        height_pt=unit.input["height_pt"],
        rotation=answer.rotation,
        text_source=answer.source,
        reason=answer.reason,
        text="\n\n".join(block.text for block in blocks if block.text),
        blocks=blocks,
    )


def _cells(rows: list[list[str]] | None) -> str:
    return "\n".join("\t".join(row) for row in rows or [])


def _summary(source: SourceOutcome) -> Summary | None:
    for unit in source.units:
        if unit.kind is UnitKind.REDUCE and unit.state is UnitState.DONE and unit.answer is not None:
            answer = ReduceAnswer.model_validate(unit.answer)
            if answer.method != "none":
                sentences = [SummarySentence(**sentence.model_dump()) for sentence in answer.sentences]
                return Summary(method=answer.method, sentences=sentences)
    return None


def _failure(error: dict[str, Any]) -> Failure:
    known = error.get("type") in set(ErrorType)
    return Failure(
        type=ErrorType(error["type"]) if known else ErrorType.INTERNAL,
        message=error.get("message") or "it failed without saying why",
        retryable=bool(error.get("retryable")),
    )
