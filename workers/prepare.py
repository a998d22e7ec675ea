"""Makes a source ready to be asked about: snapshot, probe, cut, canonical media, and the units that hang on them."""

import errno
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from omni_jobs.errors import ErrorType, SourceError, UsageError
from omni_jobs.failpoints import reach
from omni_jobs.job import Medium, Pool, Task, tasks_for
from omni_jobs.options import Options
from omni_jobs.store import jobs, reuse, sources
from omni_jobs.store.claims import Claimed
from workers import keys, snapshot
from workers.context import CancelledUnit, Context, NotNow
from workers.cutting import Cutting, Prepared
from workers.inputs import RATE_HZ
from workers.media.probe import Probe, probe
from workers.media.sandbox import Limits, SandboxCancelled
from workers.patience import patient

DISK_RETRY_S = 5.0
FULL = (errno.ENOSPC, errno.EDQUOT)
SOUND_BYTES_PER_S = 2 * RATE_HZ  # of the decoded sound on disk


def run(unit: Claimed, context: Context) -> set[Pool]:
    """Prepare one source. A source that cannot be read ends as refused, not as a failed unit: trying again is no use.

    A twin (same bytes, options and weights, delivered before) answers it whole, without decoding.
    """
    _wait_for_room(context, unit)
    folder = tempfile.mkdtemp(prefix="prepare-", dir=context.parts.scratch)
    try:
        return _prepare(unit, context, Path(folder))
    except SandboxCancelled as error:
        raise CancelledUnit from error
    except SourceError as error:
        if error.problem.retryable:
            raise
        return _refuse(unit, context, error)
    except UsageError as error:
        return _refuse(unit, context, SourceError(ErrorType.UNSUPPORTED, str(error)))
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise NotNow(f"waiting for free disk: it is full ({error.strerror})", DISK_RETRY_S) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(unit: Claimed, context: Context, folder: Path) -> set[Pool]:
    settings = context.parts.settings
    source = _snapshot(unit, context)
    options = Options.stored(unit.options)
    reuse_key = keys.reuse_of_source(source["sha256"], options.effective(), context.parts.identity)
    twin = _twin(unit, context, reuse_key) if unit.reuse else None
    if twin and not _is_locked(unit, context, twin):
        return _take_over(unit, context, twin)
    _wait_for_room(context, unit, source["size_bytes"])
    with _fetch(unit, context, source, folder / "source") as file:
        reach("prepare.kept")
        context.report(0.05)
        limits = Limits(settings.child_memory_bytes, settings.child_timeout_s, threads=settings.threads)
        found = probe(file, limits, password=unit.secret.get("password", ""), cancel=context.cancel)
        if twin:  # whoever asks has opened it
            return _take_over(unit, context, twin)
        prepared = _cut(Cutting(unit, context, options, file, limits, folder), unit, context, found, options)
    reach("prepare.cut")
    return _finish(unit, context, prepared, reuse_key)


def _wait_for_room(context: Context, unit: Claimed, needed_bytes: float = 0) -> None:
    """Wait until the scratch disk has room for so much and its reserve.

    Raises:
        NotNow: it has not.
    """
    free = shutil.disk_usage(context.parts.scratch).free
    least = context.parts.settings.min_free_bytes + int(needed_bytes)
    if free < least:
        raise NotNow(f"waiting for free disk: {free >> 20} MiB of at least {least >> 20} MiB are free", DISK_RETRY_S)
    if unit.waiting:
        jobs.wait_reason(context.parts.db, unit.job_id, None)


def _snapshot(unit: Claimed, context: Context) -> dict[str, Any]:
    """The source row, its bytes in the object store."""
    db, source_id = context.parts.db, unit.source_id or ""
    # A key of this attempt alone: one that was given up and still writes cannot mix its bytes with ours.
    key = keys.source_key(unit.tenant_id, unit.job_id, unit.position, unit.generation)
    found = patient(lambda: sources.begin(db, unit, source_id, key=key))
    assert found is not None
    source: dict[str, Any] = found
    if source["snapshot"] is None:
        reach("prepare.reserved")
        stored = snapshot.take(context.parts, source, key, _copying(context.part(0.0, 0.03)))
        reach("prepare.copied")
        kept = {"key": key, "sha256": stored.sha256, "size_bytes": stored.size_bytes}
        patient(lambda: sources.keep_snapshot(db, unit, source_id, **kept))
        source = {**source, "snapshot": key, "sha256": stored.sha256, "size_bytes": stored.size_bytes}
    if not source["size_bytes"]:
        raise SourceError(ErrorType.EMPTY, "expected a file with content, got one of 0 bytes")
    return source


def _copying(tell: Callable[[float], None]) -> Callable[[float], None]:
    def copying(share: float) -> None:
        reach("prepare.copying")
        tell(share)

    return copying


def _fetch(unit: Claimed, context: Context, source: dict[str, Any], path: Path) -> BinaryIO:
    """The snapshot as a local file. A damaged one is taken anew on the next attempt, where the original is left."""
    try:
        return snapshot.fetch(context.parts, source, path, context.part(0.03, 0.05))
    except snapshot.Damaged as error:
        if not snapshot.can_be_taken(source):
            raise
        db, source_id, key = context.parts.db, source["source_id"], source["snapshot"]
        patient(lambda: sources.forget_snapshot(db, unit, source_id, key=key))
        raise SourceError(error.type, str(error), retryable=True) from error


def _twin(unit: Claimed, context: Context, reuse_key: str) -> str | None:
    return reuse.delivered_twin(context.parts.db, tenant_id=unit.tenant_id, reuse_key=reuse_key, but_not=unit.job_id)


def _is_locked(unit: Claimed, context: Context, twin: str) -> bool:
    """Whether a twin's answers are only for who knows a password, which the keys of twins do not hold."""
    source = sources.get(context.parts.db, twin)
    return bool(unit.secret.get("password") or source is None or source["probe"].get("encrypted"))


def _take_over(unit: Claimed, context: Context, twin: str) -> set[Pool]:
    source_id = unit.source_id or ""
    return context.finish({"reused_source": twin}, also=lambda tx, job: reuse.take_source(tx, job, source_id, twin))


def _cut(cutting: Cutting, unit: Claimed, context: Context, found: Probe, options: Options) -> Prepared:
    tasks = tasks_of(found, options)
    if found.audio is not None:
        ends_s = [end_s for end_s in (options.end_s, found.duration_s) if end_s is not None]
        _wait_for_room(context, unit, max(min(ends_s, default=0.0) - options.start_s, 0.0) * SOUND_BYTES_PER_S)
    context.report(0.1)
    return cutting.run(found, tasks)


def tasks_of(found: Probe, options: Options) -> tuple[Task, ...]:
    """The tasks of a source, once it is known what it is.

    Raises:
        SourceError: a task was asked for that its medium cannot have.
    """
    tasks = tasks_for(
        found.medium,
        [task.value for task in options.tasks],
        has_audio=found.audio is not None,
        has_video=found.video is not None,
    )
    streams = found.medium in (Medium.AUDIO, Medium.VIDEO)
    for task in tasks:
        if (task is Task.DOCUMENT) == streams:
            raise SourceError(
                ErrorType.UNSUPPORTED, f"cannot {task} this source: it is {found.medium} ({found.container})"
            )
        if task is Task.TRANSCRIBE and found.audio is None:
            raise SourceError(ErrorType.NO_AUDIO, "expected sound to transcribe, but this file has no sound stream")
        if task is Task.CAPTION and found.video is None:
            raise SourceError(ErrorType.NO_VIDEO, "expected pictures to caption, but this file has no video stream")
    if not tasks:
        raise SourceError(ErrorType.EMPTY, "expected sound or pictures, but this file has neither")
    return tasks


def _finish(unit: Claimed, context: Context, prepared: Prepared, reuse_key: str) -> set[Pool]:
    source_id = unit.source_id or ""
    describe: Callable[..., None] = sources.describe
    return context.finish(
        {"units": len(prepared.units)},
        follow=prepared.units,
        also=lambda _, job: describe(job, source_id, reuse_key=reuse_key, **prepared.facts),
    )


def _refuse(unit: Claimed, context: Context, error: SourceError) -> set[Pool]:
    source_id = unit.source_id or ""
    return context.finish(
        {"refused": error.problem.as_json()}, also=lambda tx, job: sources.refuse(tx, source_id, error.problem)
    )
