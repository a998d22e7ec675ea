"""Results in every format, read whole from the object store and compared with their row, and their schema."""

import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse

from omni_jobs.api.parts import Parts, Use
from omni_jobs.api.problems import NotTaken
from omni_jobs.api.tags import has
from omni_jobs.errors import Conflict, NotFound
from omni_jobs.formats import SUFFIX_OF
from omni_jobs.job import JobState
from omni_jobs.result import json_schema
from omni_jobs.store import jobs, results

router = APIRouter(tags=["results"])

# What `Accept` may ask for, best first; `manifest` has the media type of `json` and is asked for by name.
FORMAT_OF = {
    "application/json": "json",
    "text/plain": "txt",
    "text/vtt": "vtt",
    "application/x-subrip": "srt",
    "text/markdown": "md",
}


@router.head("/v1/jobs/{job_id}/result", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/result", summary="The result of a job", response_class=Response)
async def result(
    request: Request,
    parts: Use,
    job_id: UUID,
    format: Annotated[str, Query(description="json, srt, vtt, txt, md or manifest; empty: by Accept.")] = "",
    accept: Annotated[str, Header()] = "*/*",
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """409 while the job is open; 404 names the formats it has; 500 `damaged` when its bytes are lost for good."""
    job, artifact = await run_in_threadpool(_artifact, parts, str(job_id), format or by_accept(accept))
    name = quote(file_name(job["name"], artifact["format"]), safe="")
    headers = {
        "ETag": f'"{artifact["sha256"]}"',
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
        "Vary": "Accept",
    }
    if has(if_none_match, artifact["sha256"]):
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(artifact["size_bytes"])
    if request.method == "HEAD":
        return Response(status_code=200, headers=headers, media_type=artifact["media_type"])
    pieces = await parts.reads.verified(artifact)
    return StreamingResponse(pieces, 200, headers, media_type=artifact["media_type"])


def file_name(job_name: str, format: str) -> str:
    """What a saved result is called: `talk.mp4` gives `talk.srt`, `talk.result.json`, `talk.manifest.json`."""
    stem = PurePosixPath(job_name).stem or "result"
    return f"{stem}{SUFFIX_OF.get(format, f'.{format}')}"


def _artifact(parts: Parts, job_id: str, format: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job, and its artifact of this format."""
    job = jobs.get(parts.db, parts.tenant, job_id)
    if job["result_revision"] is None:
        if JobState(job["state"]).open:
            raise Conflict(f"job {job_id} has no result yet: it is {job['state']}, in phase {job['phase']}")
        why = f": {job['error']['message']}" if job["error"] else ""
        fate = JobState(job["state"]).fate
        raise NotFound(f"job {job_id} {fate} and has no result{why}")
    return job, results.artifact(parts.db, parts.tenant, job_id, format)


def by_accept(accept: str) -> str:
    """The format that an `Accept` header likes best.

    Raises:
        NotTaken: it likes none of ours.
    """
    ranges = [_Range.of(part) for part in accept.lower().split(",") if part.strip()]
    # Of what is liked equally the first named wins, and of what one range names our own order.
    liked = [
        (-found.quality, ranges.index(found), order, format)
        for order, (media_type, format) in enumerate(FORMAT_OF.items())
        if (found := _closest(ranges, media_type)) is not None and found.quality > 0
    ]
    if not liked:
        raise NotTaken(f"expected Accept with one of {', '.join(FORMAT_OF)}, got {accept!r}", 406)
    return min(liked)[-1]


@dataclass(frozen=True, slots=True)
class _Range:
    """One part of an `Accept` header."""

    media_type: str
    quality: float

    @classmethod
    def of(cls, text: str) -> "_Range":
        media_type, *parameters = (part.strip() for part in text.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _number(value)
        return cls(media_type, quality)

    def closeness(self, media_type: str) -> int:
        """3: it names this very type, 2: all of its kind, 1: anything, 0: others."""
        names = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
        return 3 - names.index(self.media_type) if self.media_type in names else 0


def _closest(ranges: list[_Range], media_type: str) -> _Range | None:
    """The range that says it for this type: `text/vtt;q=0, text/*` wants any text but VTT."""
    best = max(ranges, key=lambda one: one.closeness(media_type), default=None)
    return best if best is not None and best.closeness(media_type) else None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return min(value, 1.0) if math.isfinite(value) else 0.0


@router.get("/v1/schema", summary="JSON Schema of result.json")
def schema() -> Response:
    return JSONResponse(json_schema(), media_type="application/schema+json")
