"""What the routes share: the open parts of this process."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import Engine

from omni_jobs.api.reads import Reads
from omni_jobs.blobs import SHORT, BlobStore, open_blobs
from omni_jobs.broker import Bell
from omni_jobs.intake.submit import Intake
from omni_jobs.settings import Settings
from omni_jobs.store import open_database

# Uploads that are written at the same time; a slow sender holds one.
WRITERS = 64


@dataclass(frozen=True, slots=True)
class Parts:
    settings: Settings
    db: Engine
    blobs: BlobStore
    intake: Intake
    writers: ThreadPoolExecutor
    reads: Reads

    @property
    def tenant(self) -> str:
        return self.settings.tenant


@contextmanager
def open_parts(settings: Settings) -> Iterator[Parts]:
    db = open_database(settings.database_url, application="omni-jobs api")
    blobs = open_blobs(settings)
    bell = Bell(settings)
    writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="upload")
    reads = Reads.of(open_blobs(settings, SHORT))
    try:
        yield Parts(settings, db, blobs, Intake(db, blobs, bell, settings), writers, reads)
    finally:
        reads.close()
        writers.shutdown(cancel_futures=True)
        bell.close()
        db.dispose()


def _parts(request: Request) -> Parts:
    return request.app.state.parts


Use = Annotated[Parts, Depends(_parts)]
