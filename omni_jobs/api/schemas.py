"""What the API takes and gives, as JSON."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from omni_jobs.api.progress import Progress
from omni_jobs.errors import ErrorType
from omni_jobs.job import JobState, Medium, Phase, Task, UnitKind
from omni_jobs.options import Options, TaskName

FORMATS = ("json", "srt", "vtt", "txt", "md", "manifest")
Id = Annotated[str, BeforeValidator(str)]
Time = Annotated[
    datetime, PlainSerializer(lambda at: at.astimezone(UTC).isoformat().replace("+00:00", "Z"), return_type=str)
]


def _text(value: object) -> object:
    if not (isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[Tt ]", value)):
        raise ValueError("expected a time by RFC 3339, such as 2030-01-31T18:00:00Z")
    return value


Deadline = Annotated[AwareDatetime, BeforeValidator(_text)]
TaskChoice = TaskName | list[TaskName]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class UploadRequest(Body):
    """What to do with the bytes in the field `file`."""

    task: TaskChoice = Field("auto", description="What to do; `auto` decides by what the bytes are.")
    options: Options = Field(default_factory=lambda: Options.model_validate({}))
    metadata: dict[str, Any] = Field({}, description="Free JSON, shown in the job, its events and in SQL.")
    reuse: bool = Field(True, description="Answer from an earlier result of the same bytes, options and models.")
    name: str = Field("", max_length=255, description="Name to show; empty: that of the file.")
    password: str = Field("", max_length=1024, description="Of an encrypted PDF; kept until the job ends, never shown.")
    attach: bool = Field(False, description="Go on with an open job of the same bytes, name and options.")
    priority: int = Field(0, ge=-100, le=100, description="Of the tenant's own jobs the higher goes first.")
    deadline: Deadline | None = Field(
        None,
        description="RFC 3339 with a time zone: among jobs of the same priority what is due first goes first. "
        "A job that is late goes on.",
        examples=["2030-01-31T18:00:00Z"],
    )


class JobRequest(UploadRequest):
    uri: str = Field(
        description="`s3://bucket/key` of a bucket the server reads, or `file:///path` below one of its file roots.",
        examples=["s3://media/talk.mp4"],
    )


class Failure(BaseModel):
    type: ErrorType
    message: str
    retryable: bool = False


class Source(BaseModel):
    id: Id
    uri: str
    name: str
    medium: Medium | None
    container: str | None
    duration_s: float | None
    pages: int | None
    size_bytes: int | None
    sha256: str | None
    tasks: list[Task]
    error: Failure | None


class Covered(BaseModel):
    """Seconds, or pages."""

    done: float = 0
    empty: float = 0
    failed: float = 0


class Links(BaseModel):
    self: str
    result: str
    events: str
    cancel: str


class Job(BaseModel):
    id: Id
    name: str
    state: JobState
    phase: Phase
    task: Literal["auto"] | list[Task] = Field(description="As asked.")
    sources: list[Source]
    progress: Progress
    coverage: dict[Literal["speech", "video", "page"], Covered] = Field(description="Known once delivered.")
    error: Failure | None
    waiting: str | None = Field(description="What the job waits for, such as free disk.")
    reused_from: Id | None = Field(description="The job whose answers were taken over.")
    revision: int
    priority: int
    deadline: Time | None = Field(description="Among jobs of one priority the earlier one goes first.")
    metadata: dict[str, Any]
    options: dict[str, Any]
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    formats: list[str] = Field(description="What `result` can give.")
    links: Links


class JobList(BaseModel):
    jobs: list[Job]
    next: str | None = Field(description="`cursor` of the next page.")


class RetryRequest(Body):
    password: str = Field("", max_length=1024, description="Of an encrypted PDF; it was forgotten when the job ended.")


class DeadUnit(BaseModel):
    """A unit that was given up, and how its attempts ended."""

    unit_id: Id
    job_id: Id
    job_name: str
    job_state: JobState
    source: str | None
    kind: UnitKind
    position: int
    revision: int
    lost: int
    failed: int
    rejected: int
    error: Failure | None
    finished_at: Time | None


class DeadUnits(BaseModel):
    units: list[DeadUnit]


class Event(BaseModel):
    seq: int
    at: Time
    type: str
    data: dict[str, Any]


class Fault(BaseModel):
    pointer: str = Field(description="JSON pointer into the body, or `/query/NAME`.")
    detail: str


class Problem(BaseModel):
    """RFC 9457, with `errors` and whether the same request may go through later."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[Fault] = []
    retryable: bool = False


class Alive(BaseModel):
    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    status: Literal["ready", "degraded", "unready"]
    parts: dict[str, str] = Field(description="`ok`, or what is wrong, of each part.")


def job_of(row: dict[str, Any], now: datetime | None = None) -> Job:
    """A job as `store.jobs.get` gives it, for its owner."""
    options = Options.stored(row["options"]).effective()
    tasks = options.pop("tasks", None) or "auto"
    path = f"/v1/jobs/{row['job_id']}"
    shown = ("name", "state", "phase", "error", "waiting", "reused_from", "revision", "priority", "metadata")
    times = ("deadline", "created_at", "started_at", "finished_at")
    return Job(
        **{name: row[name] for name in (*shown, *times)},
        id=row["job_id"],
        task=tasks,
        options=options,
        sources=[Source(**{**source, "id": source["source_id"]}) for source in row["sources"] or ()],
        progress=Progress.of(row, now or datetime.now(UTC)),
        coverage={
            medium: Covered(**{state: n or 0 for state, n in totals.items()})
            for medium, totals in (row["coverage"] or {}).items()
        },
        formats=sorted(row["formats"] or (), key=_rank),
        links=Links(self=path, result=f"{path}/result", events=f"{path}/events", cancel=f"{path}/cancel"),
    )


def _rank(format: str) -> tuple[int, str]:
    return (FORMATS.index(format) if format in FORMATS else len(FORMATS), format)
