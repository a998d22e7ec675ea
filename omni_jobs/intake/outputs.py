"""What a finished job leaves beside its source: its artifacts; of a failed one a `result.json` that says why."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from sqlalchemy import Engine

from omni_jobs import __version__
from omni_jobs.blobs import BlobStore
from omni_jobs.errors import Damaged, ErrorType, NotFound
from omni_jobs.job import JobState
from omni_jobs.result import Answerer, Failure, JobPart, Result, SourceResult
from omni_jobs.store import jobs, results

# `result.json` says that the others are there, the manifest that it is, too.
LAST = {"json": 1, "manifest": 2}


@dataclass(frozen=True, slots=True)
class Output:
    """A file to be written; `pieces` opens its bytes, and raises `Damaged` at their end if they are others."""

    format: str
    name: str
    media_type: str
    sha256: str
    pieces: Callable[[], Iterator[bytes]]

    def open(self) -> BinaryIO:
        """Its bytes as a file."""
        return io.BufferedReader(_Read(self.pieces()))


class _Read(io.RawIOBase):
    """Pieces as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            if (piece := next(self._pieces, None)) is None:
                return 0
            self._rest = memoryview(piece)
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken


def outputs_of(db: Engine, blobs: BlobStore, tenant_id: str, job_id: str) -> list[Output]:
    """The outputs of an ended job, in the order in which they are written; none of a cancelled one."""
    found = [_stored(blobs, artifact) for artifact in results.artifacts(db, tenant_id, job_id)]
    if not found:
        job = jobs.get(db, tenant_id, job_id)
        found = [_failure(job)] if job["state"] == JobState.FAILED.value else []
    return sorted(found, key=lambda output: (LAST.get(output.format, 0), output.name))


def _stored(blobs: BlobStore, artifact: dict[str, Any]) -> Output:
    names = ("format", "name", "media_type", "sha256")
    return Output(**{name: artifact[name] for name in names}, pieces=lambda: _verified(blobs, artifact))


def _verified(blobs: BlobStore, artifact: dict[str, Any]) -> Iterator[bytes]:
    digest = hashlib.sha256()
    try:
        for piece in blobs.open(artifact["key"]):
            digest.update(piece)
            yield piece
    except NotFound as error:
        raise Damaged(f"the stored {artifact['name']} is no longer in the object store") from error
    if digest.hexdigest() != artifact["sha256"]:
        raise Damaged(f"the stored {artifact['name']} is damaged: its bytes are not those that were put")


def _failure(job: dict[str, Any]) -> Output:
    text = json.dumps(failed_result(job).model_dump(mode="json"), ensure_ascii=False) + "\n"
    data = text.encode()
    digest = hashlib.sha256(data).hexdigest()
    return Output("json", "result.json", "application/json", digest, lambda: iter([data]))


def failed_result(job: dict[str, Any]) -> Result:
    """A result by the published schema that holds nothing but what went wrong."""
    why = job["error"] or {"type": ErrorType.INTERNAL.value, "message": "no unit could be answered"}
    return Result(
        job=JobPart(
            job_id=str(job["job_id"]),
            revision=job["revision"],
            state=job["state"],
            created_at=job["created_at"].isoformat(),
            options=job["options"],
        ),
        answered_by=Answerer(backend="none", models={}, digest="", version=__version__),
        sources=[_source(source, why) for source in job["sources"]],
        warnings=[why["message"]],
    )


def _source(source: dict[str, Any], why: dict[str, Any]) -> SourceResult:
    names = ("source_id", "name", "uri", "sha256", "size_bytes", "medium", "container", "duration_s", "pages", "tasks")
    return SourceResult(**{name: source[name] for name in names}, error=Failure(**(source["error"] or why)))
