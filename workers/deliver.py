"""Makes the result of a job: rows behind the views, files in the object store, and a manifest that names them."""

import hashlib
from typing import Any

from sqlalchemy import Connection, Engine

from omni_jobs import __version__
from omni_jobs.errors import Unavailable
from omni_jobs.failpoints import reach
from omni_jobs.job import ADDING, JobState, Pool, UnitKind, UnitState
from omni_jobs.options import Options
from omni_jobs.result import Answerer, JobPart, Result, SourceResult
from omni_jobs.store import results, sources, units
from omni_jobs.store.claims import Claimed
from omni_jobs.store.database import auto
from workers.context import Context
from workers.results.artifacts import Rendered, render
from workers.results.assemble import assemble
from workers.results.coverage import gaps_of
from workers.results.manifest import manifest
from workers.results.outcome import SourceOutcome, UnitOutcome
from workers.results.rows import rows_of


def run(unit: Claimed, context: Context) -> set[Pool]:
    """Assemble, put and verify every artifact, then make them the current result in one transaction."""
    with auto(context.parts.db) as tx:
        outcomes = outcomes_of(unit, tx)
    assembled = [assemble(outcome) for outcome in outcomes]
    context.report(0.3)
    result = _result(unit, context, outcomes, assembled)
    prefix = unit.prefix
    files = render(result)
    reach("deliver.assembled")
    artifacts: list[dict[str, Any]] = []
    for number, rendered in enumerate(files):
        context.report(0.3 + 0.6 * number / len(files))
        artifacts.append(_put(context, prefix, rendered))
    keys = {artifact["name"]: artifact["key"] for artifact in artifacts}
    artifacts.append(_put(context, prefix, manifest(unit.job_id, unit.revision, unit.generation, files, keys)))
    reach("deliver.verified")
    context.report(0.9)
    content = {source.source_id: rows_of(source) for source in assembled}
    return context.finish(
        {"prefix": prefix, "artifacts": [artifact["name"] for artifact in artifacts]},
        also=lambda _, job: results.commit(
            job,
            generation=unit.generation,
            prefix=prefix,
            answered_by=result.answered_by.model_dump(),
            artifacts=artifacts,
            content=content,
        ),
    )


def outcomes_of(unit: Claimed, db: Engine | Connection) -> list[SourceOutcome]:
    """Each source of the job with what became of its units."""
    found = units.answers(db, unit.job_id, unit.revision)
    return [
        SourceOutcome(
            source_id=str(source["source_id"]),
            name=source["name"],
            uri=source["uri"],
            sha256=source["sha256"],
            size_bytes=source["size_bytes"],
            medium=source["medium"],
            container=source["container"],
            duration_s=source["duration_s"],
            pages=source["pages"],
            tasks=tuple(source["tasks"]),
            gaps=tuple(tuple(gap) for gap in source["gaps"]),
            speech=tuple((start_s, end_s) for start_s, end_s in source["speech"]),
            error=source["error"],
            range_s=(unit.options.get("start_s", 0.0), unit.options.get("end_s")),
            units=tuple(_outcome(one) for one in found if one["source_id"] == source["source_id"]),
        )
        for source in sources.of_job(db, unit.job_id)
    ]


def _outcome(one: dict[str, Any]) -> UnitOutcome:
    return UnitOutcome(
        unit_id=str(one["unit_id"]),
        kind=UnitKind(one["kind"]),
        position=one["position"],
        state=UnitState(one["state"]),
        input=one["input"],
        answer=one["answer"],
        kept=one["kept"],
        error=one["error"],
    )


def _result(
    unit: Claimed,
    context: Context,
    outcomes: list[SourceOutcome],
    assembled: list[SourceResult],
) -> Result:
    dead = any(one.state is UnitState.DEAD and one.kind not in ADDING for outcome in outcomes for one in outcome.units)
    gaps = any(gaps_of(source.coverage) or source.error for source in assembled)
    identity = context.parts.identity
    return Result(
        job=JobPart(
            job_id=unit.job_id,
            revision=unit.revision,
            state=(JobState.PARTIAL if dead or gaps else JobState.SUCCEEDED).value,
            created_at=unit.created_at.isoformat(),
            options=Options.stored(unit.options).effective(),
            reused_from=str(unit.reused_from) if unit.reused_from else None,
        ),
        answered_by=Answerer(
            backend=identity.backend, models=identity.models, digest=identity.digest, version=__version__
        ),
        sources=assembled,
    )


def _put(context: Context, prefix: str, rendered: Rendered) -> dict[str, Any]:
    """Put one artifact and read it back: what is not there whole is not delivered."""
    key = prefix + rendered.name
    stored = context.parts.blobs.put(key, rendered.data, rendered.media_type)
    reach("deliver.put")
    back = context.parts.blobs.get(key)
    if hashlib.sha256(back).hexdigest() != stored.sha256:
        raise Unavailable(f"the object store gave other bytes for {key} than were put")
    return {
        "name": rendered.name,
        "format": rendered.format,
        "key": key,
        "media_type": rendered.media_type,
        "size_bytes": stored.size_bytes,
        "sha256": stored.sha256,
        "source_id": rendered.source_id,
    }
