"""The way in on a real database and a file store; jobs are worked by hand."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from omni_jobs.blobs import BlobStore, open_blobs
from omni_jobs.errors import ErrorType, Problem
from omni_jobs.intake.submit import Intake
from omni_jobs.job import Pool, UnitKind
from omni_jobs.settings import Settings
from omni_jobs.store import attempts, claims, results, sources, workers
from tests.omni_jobs.intake.looking import Watch

FILES = {
    "result.json": ("json", b'{"schema_version":"1"}\n'),
    "subtitles.srt": ("srt", b"1\n00:00:00,000 --> 00:00:01,000\nHi\n"),
    "text.txt": ("txt", b"Hi\n"),
    "manifest.json": ("manifest", b"{}\n"),
}


class Bell:
    """Counts instead of ringing."""

    def __init__(self) -> None:
        self.woken: list[str] = []

    def wake(self, pool: str) -> None:
        self.woken.append(pool)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        database_url=database_url,
        blob_url=(tmp_path / "blobs").as_uri(),
        broker_url="redis://127.0.0.1:1/0",
        file_roots=(tmp_path / "roots",),
        s3_sources=("media",),
        poll_s=0.1,
        settle_s=0.3,
        max_upload_bytes=1 << 20,
    )


@pytest.fixture
def blobs(settings: Settings) -> BlobStore:
    return open_blobs(settings)


@pytest.fixture
def intake(db: Engine, blobs: BlobStore, bell: Bell, settings: Settings) -> Intake:
    return Intake(db, blobs, bell, settings)  # type: ignore[arg-type]


@pytest.fixture
def finish_jobs(db: Engine, blobs: BlobStore) -> Callable[..., None]:
    """Works every open job to its end: with `FILES` as its result, or refused."""
    worker = workers.register(db, pool="cpu", host="here", pid=1, pid_started=1, version="t", backend=None)

    def finish(*, fail: bool = False, text: bytes = b"Hi\n") -> None:
        problem = Problem(ErrorType.UNREADABLE, "this is no media") if fail else None
        for pool in (Pool.CPU, Pool.GPU, Pool.IO):
            for unit in claims.claim(db, worker, pool, 1000):
                if unit.kind is UnitKind.PREPARE and problem is not None:
                    source_id = unit.source_id or ""
                    attempts.finish(db, unit, {}, also=lambda tx, _, id=source_id: sources.refuse(tx, id, problem))
                elif unit.kind is UnitKind.DELIVER:
                    deliver(unit, text)
                else:
                    attempts.finish(db, unit, {})

    def deliver(unit: claims.Claimed, text: bytes) -> None:
        prefix = f"{unit.tenant_id}/{unit.job_id}/1/1/"
        rows = []
        for name, (format, data) in {**FILES, "text.txt": ("txt", text)}.items():
            blobs.put(prefix + name, data)
            row = {"name": name, "format": format, "media_type": "text/plain", "key": prefix + name}
            rows.append({**row, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        attempts.finish(
            db,
            unit,
            {},
            also=lambda _, job: results.commit(
                job, generation=1, prefix=prefix, answered_by={}, artifacts=rows, content={}
            ),
        )

    return finish


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


@pytest.fixture
def watch(inbox: Path, intake: Intake, settings: Settings) -> Watch:
    return Watch(inbox, intake, settings)
