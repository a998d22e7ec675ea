"""The one way in: a submission becomes a job, whoever brings it (API, folder, bucket)."""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from sqlalchemy import Engine

from omni_jobs.blobs import BlobStore, Stored
from omni_jobs.broker import Bell
from omni_jobs.errors import OmniError, UsageError
from omni_jobs.extras import HOW_SPEAKERS, has_speakers
from omni_jobs.intake.metadata import check_metadata
from omni_jobs.intake.places import allowed_place
from omni_jobs.job import Pool, Task
from omni_jobs.options import Options, TaskName
from omni_jobs.settings import Settings
from omni_jobs.store import jobs, ledger, objects, submissions, workers
from omni_jobs.store.database import is_outage, new_id

MAX_NAME = 255
MAX_METADATA_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Submission:
    """What is to become a job: either `uri`, or bytes that lie in the blob store (`stored`) and their `name`.

    Attributes:
        job_id: `stored` lies under `Intake.snapshot_key(job_id)`.
        attach: an open job of the same bytes, name and options is good enough.
        priority: the higher goes first among the tenant's own jobs.
        deadline: of two with the same priority the one that is due first goes first.
        ledger_id: the watcher's row, bound to the job in the same transaction.
    """

    uri: str = ""
    stored: Stored | None = None
    name: str = ""
    task: TaskName | list[TaskName] = "auto"
    options: Options = field(default_factory=lambda: Options.model_validate({}))
    password: str = field(default="", repr=False)
    metadata: dict[str, Any] = field(default_factory=dict)
    reuse: bool = True
    attach: bool = False
    priority: int = 0
    deadline: datetime | None = None
    idempotency_key: str | None = None
    job_id: str = field(default_factory=new_id)
    origin: str = "api"
    origin_ref: dict[str, Any] = field(default_factory=dict)
    ledger_id: str | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """`new`: this call made the job. `attached`: it found an open one to go on with."""

    job_id: str
    new: bool
    attached: bool = False


class Intake:
    """Makes jobs of one tenant, the one of the settings. Threads may share it."""

    def __init__(self, db: Engine, blobs: BlobStore, bell: Bell, settings: Settings) -> None:
        self.db, self.blobs, self.settings = db, blobs, settings
        self._bell = bell

    def snapshot_key(self, job_id: str) -> str:
        return f"{self.settings.tenant}/{job_id}/source/0"

    def keep(self, job_id: str, data: BinaryIO) -> Stored:
        """Put the bytes of a job to be; `submit` takes them over, or deletes them; of neither the collector does."""
        key = self.snapshot_key(job_id)
        objects.reserve(self.db, prefix=key, tenant_id=self.settings.tenant, job_id=job_id)
        return self.blobs.put(key, data)

    def require_room(self, idempotency_key: str | None = None) -> None:
        """Ask before bytes are taken in for a job that `submit` would refuse.

        Raises:
            TooMany: as many jobs are open as may be.
        """
        settings = self.settings
        submissions.require_room(
            self.db, settings.tenant, max_open=settings.max_open_jobs, idempotency_key=idempotency_key
        )

    def drop(self, job_id: str) -> None:
        """Delete bytes that will not become a job; best effort, because there may be no store."""
        with suppress(OmniError, OSError):
            self.blobs.delete(self.snapshot_key(job_id))

    def submit(self, submission: Submission) -> Submitted:
        """Commit a job, then wake the pool that prepares it. Bytes that nobody needs any more are deleted.

        Raises:
            UsageError: a source we do not take, or options that do not fit together.
            TooMany: as many jobs are open as may be.
            Conflict: the idempotency key was used with another request.
        """
        try:
            done = self._submit(submission)
        except Exception as error:
            # Of a commit that got no answer nobody knows whether it happened: its job may need the bytes.
            if submission.stored is not None and not is_outage(error):
                self.drop(submission.job_id)
            raise
        if submission.stored is not None and not done.new:
            self.drop(submission.job_id)
        return done

    def retry(self, job_id: str, secret: dict[str, Any]) -> dict[str, Any]:
        """Begin a new revision of a job that lacks answers, and wake the pools; returns the job.

        Raises:
            NotFound: there is no such job.
            Conflict: it lacks nothing, or is open.
        """
        jobs.retry(self.db, self.settings.tenant, job_id, secret=secret)
        ledger.again(self.db, job_id)
        self._bell.wake(Pool.CPU.value)
        return jobs.get(self.db, self.settings.tenant, job_id)

    def _submit(self, submission: Submission) -> Submitted:
        job = self._job_of(submission)
        source = job.sources[0]
        attach = bool(submission.attach and source.sha256 and not submission.password)
        if attach:
            found = submissions.find_open(
                self.db, job.tenant_id, sha256=source.sha256 or "", name=source.name, options=job.options
            )
            if found is not None:
                return Submitted(found, new=False, attached=True)
        job_id, new = submissions.insert(self.db, job, max_open=self.settings.max_open_jobs, attach=attach)
        if new:
            self._bell.wake(Pool.CPU.value)
        # Without a key only an open job can have stood in for this one.
        return Submitted(job_id, new, attached=attach and not new and submission.idempotency_key is None)

    def _job_of(self, submission: Submission) -> submissions.NewJob:
        check_metadata(submission.metadata)
        if len(json.dumps(submission.metadata)) > MAX_METADATA_BYTES:
            raise UsageError(f"metadata may have {MAX_METADATA_BYTES} bytes as JSON", pointer="/metadata")
        options = with_tasks(submission.options, submission.task)
        if submission.options.speakers:
            self._require_speakers()
        source = self._source_of(submission)
        return submissions.NewJob(
            tenant_id=self.settings.tenant,
            sources=(source,),
            options=options.storable(),
            job_id=submission.job_id,
            name=source.name,
            origin=submission.origin,
            origin_ref=submission.origin_ref,
            secret={"password": submission.password} if submission.password else {},
            metadata=submission.metadata,
            reuse=submission.reuse,
            priority=submission.priority,
            due_at=submission.deadline,
            idempotency_key=submission.idempotency_key,
            request_digest=request_digest(submission, source, options) if submission.idempotency_key else "",
            ledger_id=submission.ledger_id,
        )

    def _require_speakers(self) -> None:
        if not (has_speakers() or workers.any_has(self.db, "speakers")):
            raise UsageError(
                f"speakers cannot be told apart here: {HOW_SPEAKERS} where the workers run, or leave the option out",
                pointer="/options/speakers",
                kind="unsupported",
            )

    def _source_of(self, submission: Submission) -> submissions.NewSource:
        if (stored := submission.stored) is not None:
            name = clean_name(submission.name) or "upload"
            uri = submission.uri or f"upload:{quote(name)}"
            return submissions.NewSource(uri, name, stored.key, stored.sha256, stored.size_bytes)
        place = allowed_place(submission.uri, self.settings)
        named = place.name if isinstance(place, Path) else place.key
        name = clean_name(submission.name) or clean_name(named)
        return submissions.NewSource(submission.uri, name or "source")


def with_tasks(options: Options, task: TaskName | list[TaskName]) -> Options:
    """The options with what `task` says; both may say it, if they say the same.

    Raises:
        UsageError: an empty list, `auto` beside other tasks, or two answers.
    """
    names = [task] if isinstance(task, str) else list(dict.fromkeys(task))
    if not names or ("auto" in names and len(names) > 1):
        raise UsageError(f"expected auto, or some of {', '.join(Task)}, got {names}", pointer="/task")
    tasks = () if names == ["auto"] else tuple(Task(name) for name in names)
    if options.tasks and tasks and set(options.tasks) != set(tasks):
        raise UsageError(
            f"task says {', '.join(tasks)}, options.tasks says {', '.join(options.tasks)}", pointer="/options/tasks"
        )
    return options.model_copy(update={"tasks": tasks or options.tasks})


def clean_name(name: str) -> str:
    """A file name to show: no folders before it, nothing unprintable, not endless."""
    base = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    shown = "".join(letter for letter in base if letter.isprintable()).strip()
    return "" if shown in (".", "..") else shown[:MAX_NAME]


def request_digest(submission: Submission, source: submissions.NewSource, options: Options) -> str:
    """Of all that makes two requests the same. The password goes in as a slow hash: this is kept after it is gone."""
    password = b""
    if submission.password:
        salt = (submission.idempotency_key or "").encode()
        password = hashlib.scrypt(submission.password.encode("utf-8", "surrogatepass"), salt=salt, n=2**12, r=8, p=1)
    said = [
        source.sha256 or source.uri,
        source.name,
        options.effective(),
        submission.metadata,
        submission.reuse,
        password.hex(),
    ]
    if submission.priority or submission.deadline:
        said += [submission.priority, str(submission.deadline)]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
