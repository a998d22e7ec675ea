"""Jobs: submit, look, wait, list, events, cancel."""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Annotated, Any, BinaryIO, TypeVar
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from omni_jobs.api.bodies import parse
from omni_jobs.api.parts import Parts, Use
from omni_jobs.api.problems import Invalid, NotTaken, TooLarge
from omni_jobs.api.schemas import Event, Job, JobList, JobRequest, RetryRequest, UploadRequest, job_of
from omni_jobs.api.tags import ANY, tags
from omni_jobs.api.upload import MAX_FIELD_BYTES, Upload
from omni_jobs.blobs import Stored
from omni_jobs.errors import Conflict, UsageError
from omni_jobs.intake.submit import Submission, Submitted
from omni_jobs.job import JobState
from omni_jobs.store import events as event_log
from omni_jobs.store import jobs
from omni_jobs.store.database import new_id

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

MAX_WAIT_S = 30.0
LOOK_EVERY_S = 0.3
RETRY_AFTER_S = 1
MAX_KEY = 255
# What boundaries, headers and the field `request` may add to a file.
FORM_BYTES = 2 * MAX_FIELD_BYTES

Asked = TypeVar("Asked", bound=BaseModel)
IfNoneMatch = Annotated[str | None, Header()]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the headers and the query of a submission say."""

    attach: bool
    idempotency_key: str | None


@router.post("", status_code=202, response_model=Job, summary="Submit a job")
async def create(
    request: Request,
    parts: Use,
    attach: Annotated[bool, Query(description="Go on with an open job of the same bytes, name and options.")] = False,
    idempotency_key: Annotated[str | None, Header(description="Makes the call safe to repeat.")] = None,
) -> Response:
    """JSON that names a source by URI, or multipart/form-data with the bytes.

    429 while as many jobs are open as may be: an upload is refused before its bytes are read.

    202 for a new job; 200 with the earlier one for a repeated `Idempotency-Key` (then with `Idempotent-Replay: true`)
    or an attached job.
    """
    if idempotency_key is not None and not (0 < len(idempotency_key) <= MAX_KEY and idempotency_key.isprintable()):
        raise UsageError(f"expected an Idempotency-Key of 1 to {MAX_KEY} printable characters")
    wish = Wish(attach, idempotency_key)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    match media_type:
        case "application/json":
            submission = _from_json(await _body(request), wish)
        case "multipart/form-data":
            submission = await _from_form(request, parts, wish)
        case _:
            raise NotTaken(f"expected application/json or multipart/form-data, got {media_type or 'no type'}", 415)
    try:
        done = await run_in_threadpool(parts.intake.submit, submission)
    except Conflict as error:
        # The state of things is fine, the request is not.
        raise UsageError(str(error), kind=error.kind) from error
    row = await run_in_threadpool(jobs.get, parts.db, parts.tenant, done.job_id)
    return _created(row, done, replay=not done.new and not done.attached)


def _created(row: dict[str, Any], done: Submitted, *, replay: bool) -> Response:
    job = job_of(row)
    headers = {"Location": job.links.self}
    if replay:
        headers["Idempotent-Replay"] = "true"
    return JSONResponse(job.model_dump(mode="json"), 202 if done.new else 200, headers)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FIELD_BYTES:
            raise TooLarge(f"a JSON body may have {MAX_FIELD_BYTES} bytes")
    return bytes(body)


def _from_json(body: bytes, wish: Wish) -> Submission:
    return _submission(JobRequest, parse(body), wish)


async def _from_form(request: Request, parts: Parts, wish: Wish) -> Submission:
    limit = parts.settings.max_upload_bytes
    if int(request.headers.get("content-length") or 0) > limit + FORM_BYTES:
        raise TooLarge(f"a file may have {limit} bytes, the body has {request.headers['content-length']}")
    await run_in_threadpool(parts.intake.require_room, wish.idempotency_key)
    job_id = new_id()

    def keep(reader: BinaryIO) -> Stored:
        return parts.intake.keep(job_id, reader)

    upload = Upload(
        request.headers["content-type"], max_bytes=limit, keep=keep, writers=parts.writers, check=_check_field
    )
    try:
        form = await upload.read(request.stream())
        if form.stored is None:
            raise UsageError("expected a field `file` with the bytes", pointer="/file")
        attach = wish.attach or _flag(form.fields.get("attach", b"false"))
        asked = _submission(UploadRequest, parse(form.fields.get("request", b"{}")), Wish(attach, wish.idempotency_key))
        return replace(asked, job_id=job_id, stored=form.stored, name=asked.name or form.filename)
    except BaseException:
        await asyncio.shield(run_in_threadpool(parts.intake.drop, job_id))
        raise


def _check_field(name: str, value: bytes) -> None:
    """Refuse a mistake before the bytes have gone up."""
    if name == "attach":
        _flag(value)
    else:
        _validated(UploadRequest, parse(value))


def _flag(value: bytes) -> bool:
    text = value.decode("latin-1").strip().lower()
    if text not in ("true", "false", "1", "0"):
        raise UsageError(f"expected true or false, got {text[:20]!r}", pointer="/attach")
    return text in ("true", "1")


def _validated(model: type[Asked], value: Any) -> Asked:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Invalid.of(error) from error


def _submission(model: type[UploadRequest], value: Any, wish: Wish) -> Submission:
    asked = _validated(model, value)
    return Submission(
        uri=asked.uri if isinstance(asked, JobRequest) else "",
        name=asked.name,
        task=asked.task,
        options=asked.options,
        password=asked.password,
        metadata=asked.metadata,
        reuse=asked.reuse,
        attach=asked.attach or wish.attach,
        priority=asked.priority,
        deadline=asked.deadline,
        idempotency_key=wish.idempotency_key,
    )


@router.get("", response_model=JobList, summary="List jobs, newest first")
def page(
    parts: Use,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
    state: JobState | None = None,
) -> JobList:
    found = jobs.list_page(
        parts.db,
        parts.tenant,
        limit=limit + 1,
        before=str(cursor) if cursor else None,
        state=state.value if state else None,
    )
    shown = [job_of(row) for row in found[:limit]]
    return JobList(jobs=shown, next=shown[-1].id if len(found) > limit else None)


@router.get("/{job_id}", response_model=Job, summary="Look at a job, or wait for a change")
async def get(
    request: Request,
    parts: Use,
    job_id: UUID,
    wait: Annotated[
        float,
        Query(
            ge=0, allow_inf_nan=False, description="Answer when the job changes, at most so many seconds (30) later."
        ),
    ] = 0.0,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """`wait` counts from the version in `If-None-Match`, so that no change is missed; without it from now.

    304 says that the job is still at that version.
    """
    until = time.monotonic() + min(wait, MAX_WAIT_S)
    # Read before the job is: at worst an answer is newer than its mark, and the next one comes at once.
    mark = await run_in_threadpool(jobs.mark, parts.db, parts.tenant, str(job_id))
    known = tags(if_none_match) if if_none_match else {mark}
    if ANY in known:
        known = {mark}
    while mark in known and _open(mark) and time.monotonic() < until:
        if request.app.state.stopping or await request.is_disconnected():
            break
        await asyncio.sleep(min(LOOK_EVERY_S, max(0.0, until - time.monotonic())))
        mark = await run_in_threadpool(jobs.mark, parts.db, parts.tenant, str(job_id))
    headers = {"ETag": f'W/"{mark}"', "Cache-Control": "no-cache"}
    if _open(mark):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if if_none_match and mark in known:
        return Response(status_code=304, headers=headers)
    row = await run_in_threadpool(jobs.get, parts.db, parts.tenant, str(job_id))
    return JSONResponse(job_of(row).model_dump(mode="json"), 200, headers)


def _open(mark: str) -> bool:
    """Whether a job at this mark can still change; the mark is `store.jobs.mark`'s: number, state, ..."""
    return JobState(mark.split("-")[1]).open


@router.get("/{job_id}/events", response_model=list[Event], summary="What happened to a job")
def events(
    parts: Use,
    job_id: UUID,
    after: Annotated[int, Query(ge=0, le=2**62, description="Number of the last one you have.")] = 0,
) -> list[Event]:
    """Numbered without a hole, at most 500 at once."""
    jobs.mark(parts.db, parts.tenant, str(job_id))
    return [Event(**one) for one in event_log.since(parts.db, str(job_id), after)]


@router.post("/{job_id}/cancel", status_code=202, response_model=Job, summary="Cancel a job")
def cancel(parts: Use, job_id: UUID, response: Response) -> Job:
    """202 the first time, 200 after that, 409 when it has ended otherwise."""
    if not jobs.cancel(parts.db, parts.tenant, str(job_id)):
        response.status_code = 200
    return job_of(jobs.get(parts.db, parts.tenant, str(job_id)))


@router.post("/{job_id}/retry", status_code=202, response_model=Job, summary="Try again what has no answer")
async def retry(request: Request, parts: Use, job_id: UUID) -> Response:
    """A new revision of a partial or failed job; what was answered is kept, and the old result until then.

    The body may be left out.
    """
    asked = _validated(RetryRequest, parse(await _body(request) or b"{}"))
    secret = {"password": asked.password} if asked.password else {}
    row = await run_in_threadpool(parts.intake.retry, str(job_id), secret)
    return JSONResponse(job_of(row).model_dump(mode="json"), 202, {"Location": f"/v1/jobs/{job_id}"})


@router.delete("/{job_id}", status_code=204, response_class=Response, summary="Delete a job and its results")
def delete(parts: Use, job_id: UUID) -> Response:
    """An open job is cancelled by it. Its objects go within seconds."""
    jobs.delete(parts.db, parts.tenant, str(job_id))
    return Response(status_code=204)
