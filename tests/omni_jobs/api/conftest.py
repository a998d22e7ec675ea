"""The API on a real database and a file store; jobs are worked by hand."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from omni_jobs.api.app import create_app
from omni_jobs.blobs import BlobStore, open_blobs
from omni_jobs.job import Pool, UnitKind
from omni_jobs.settings import Settings
from omni_jobs.store import attempts, claims, open_database, results, workers
from omni_jobs.store.units import NewUnit

KEY = "a key of thirty-two letters or so"
FILES = {
    "result.json": ("json", "application/json", b'{"schema_version":"1"}\n'),
    "subtitles.srt": ("srt", "application/x-subrip; charset=utf-8", b"1\n00:00:00,000 --> 00:00:01,000\nHi\n"),
    "text.txt": ("txt", "text/plain; charset=utf-8", b"Hi\n"),
    "manifest.json": ("manifest", "application/json", b"{}\n"),
}


@pytest.fixture(scope="module")
def settings(file_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """One database and one store for the tests of a file."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "files").mkdir()
    return Settings(
        home=folder / "home",
        database_url=file_database_url,
        blob_url=(folder / "blobs").as_uri(),
        # Nobody listens: the API must do without.
        broker_url="redis://127.0.0.1:1/0",
        api_key=KEY,
        file_roots=(folder / "files",),
        s3_sources=("media",),
        max_upload_bytes=4 << 20,
    )


@pytest.fixture(scope="module", autouse=True)
def _plain_logs() -> Iterator[None]:
    """Drawing tracebacks with all their variables takes seconds."""
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[TestClient]:
    """The app in this process, called with the key."""
    with TestClient(
        create_app(settings), "http://localhost", raise_server_exceptions=False, headers={"X-Api-Key": KEY}
    ) as client:
        yield client


@pytest.fixture(scope="module")
def db(settings: Settings) -> Iterator[Engine]:
    engine = open_database(settings.database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def blobs(settings: Settings) -> BlobStore:
    return open_blobs(settings)


@pytest.fixture
def roots(settings: Settings) -> Path:
    """The folder that `file:` sources may lie in."""
    return settings.file_roots[0]


@pytest.fixture
def finish_job(db: Engine, blobs: BlobStore) -> Callable[[str], None]:
    """Works a job to its end, with `FILES` as its result."""
    worker = workers.register(db, pool="cpu", host="here", pid=1, pid_started=1, version="t", backend=None)

    def finish(job_id: str) -> None:
        for pool in (Pool.CPU, Pool.GPU, Pool.GPU, Pool.IO):
            for unit in claims.claim(db, worker, pool, 100):
                if unit.job_id != job_id:
                    attempts.release(db, unit)
                elif unit.kind is UnitKind.PREPARE:
                    span = NewUnit(UnitKind.SPAN, unit.source_id, amount=10.0)
                    attempts.finish(db, unit, {}, follow=[span])
                elif unit.kind is UnitKind.DELIVER:
                    deliver(unit)
                else:
                    attempts.finish(db, unit, {"text": "Hi"})

    def deliver(unit: claims.Claimed) -> None:
        prefix = f"{unit.tenant_id}/{unit.job_id}/1/1/"
        rows = []
        for name, (format, media_type, data) in FILES.items():
            blobs.put(prefix + name, data)
            row = {"name": name, "format": format, "media_type": media_type, "key": prefix + name}
            rows.append({**row, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        attempts.finish(
            db,
            unit,
            {},
            also=lambda _, job: results.commit(
                job, generation=1, prefix=prefix, answered_by={"backend": "none"}, artifacts=rows, content={}
            ),
        )

    return finish
