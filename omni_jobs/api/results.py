"""Results in every format, streamed from the blob store, and the schema they follow."""

from collections.abc import Iterator
from itertools import chain
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from omni_jobs.api.parts import Parts, Use
from omni_jobs.api.problems import NotTaken
from omni_jobs.errors import Conflict, NotFound, Unavailable
from omni_jobs.job import JobState
from omni_jobs.result import json_schema
from omni_jobs.store import jobs, results

router = APIRouter(tags=["results"])

# What `Accept` may ask for, best first; `manifest` has the media type of `json` and is asked for by name.
FORMAT_OF = {
    "application/json": "json",
    "text/vtt": "vtt",
    "application/x-subrip": "srt",
    "text/plain": "txt",
    "text/markdown": "md",
}
LONG_SUFFIX = {"json": "result.json", "manifest": "manifest.json"}


@router.get("/v1/jobs/{job_id}/result", summary="The result of a job", response_class=Response)
def result(
    parts: Use,
    job_id: UUID,
    format: Annotated[str, Query(description="json, srt, vtt, txt, md or manifest; empty: by Accept.")] = "",
    accept: Annotated[str, Header()] = "*/*",
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """409 while the job is open; 404 names the formats it has."""
    job, artifact = _artifact(parts, str(job_id), format or by_accept(accept))
    name = quote(file_name(job["name"], artifact["format"]), safe="")
    headers = {
        "ETag": f'"{artifact["sha256"]}"',
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
        "Vary": "Accept",
    }
    if if_none_match and artifact["sha256"] in if_none_match:
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(artifact["size_bytes"])
    return StreamingResponse(_pieces(parts, artifact["key"]), 200, headers, media_type=artifact["media_type"])


def file_name(job_name: str, format: str) -> str:
    """What a saved result is called: `talk.mp4` gives `talk.srt`, `talk.result.json`, `talk.manifest.json`."""
    stem = PurePosixPath(job_name).stem or "result"
    return f"{stem}.{LONG_SUFFIX.get(format, format)}"


def _artifact(parts: Parts, job_id: str, format: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The job, and its artifact of this format."""
    job = jobs.get(parts.db, parts.tenant, job_id)
    if job["result_revision"] is None:
        if JobState(job["state"]).open:
            raise Conflict(f"job {job_id} has no result yet: it is {job['state']}, in phase {job['phase']}")
        why = f": {job['error']['message']}" if job["error"] else ""
        raise NotFound(f"job {job_id} has {job['state']} and has no result{why}")
    return job, results.artifact(parts.db, parts.tenant, job_id, format)


def _pieces(parts: Parts, key: str) -> Iterator[bytes]:
    """The object's bytes; the first are read at once, so that a store that fails is answered with a problem."""
    pieces = iter(parts.blobs.open(key))
    try:
        first = next(pieces, b"")
    except NotFound as error:
        raise Unavailable("the bytes of this result are not in the object store") from error
    return chain([first], pieces)


def by_accept(accept: str) -> str:
    """The format that an `Accept` header likes best.

    Raises:
        NotTaken: it likes none of ours.
    """
    ranges = [part.split(";") for part in accept.lower().split(",") if part.strip()]
    liked = sorted(ranges, key=_quality, reverse=True)
    for media_type, *_ in (one for one in liked if _quality(one) > 0):
        name = media_type.strip()
        if name in ("*/*", "application/*"):
            return "json"
        if name == "text/*":
            return "txt"
        if name in FORMAT_OF:
            return FORMAT_OF[name]
    raise NotTaken(f"expected Accept with one of {', '.join(FORMAT_OF)}, got {accept!r}", 406)


def _quality(media_range: list[str]) -> float:
    for parameter in media_range[1:]:
        name, _, value = parameter.strip().partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


@router.get("/v1/schema", summary="JSON Schema of result.json")
def schema() -> Response:
    return JSONResponse(json_schema(), media_type="application/schema+json")
