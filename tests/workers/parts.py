"""The parts of a worker process, as handlers are given them."""

from pathlib import Path

from sqlalchemy import Engine

from omni_jobs.blobs import open_blobs
from omni_jobs.settings import Settings
from workers.backends.backend import Identity
from workers.context import Parts
from workers.endings import Endings
from workers.flight import Flight


def make_parts(db: Engine, settings: Settings, folder: Path) -> Parts:
    """Everything real but the backend, which there is none; scratch and flight record lie in `folder`."""
    (folder / "scratch").mkdir()
    return Parts(
        settings,
        db,
        open_blobs(settings),
        folder / "scratch",
        Identity("test", {}, "digest"),
        Endings(db),
        Flight(folder / "flight" / "worker"),
    )
