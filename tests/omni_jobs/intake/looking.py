"""A watched folder look by look, and what came of it."""

import threading
from pathlib import Path

from sqlalchemy import Engine

from omni_jobs.intake.folder import Folder
from omni_jobs.intake.lister import Lister
from omni_jobs.intake.submit import Intake
from omni_jobs.settings import Settings
from omni_jobs.store import jobs
from omni_jobs.store.database import rows


class Watch:
    """A lister whose clock is ours: each look is a second after the one before."""

    def __init__(self, inbox: Path, intake: Intake, settings: Settings) -> None:
        self.now = 0.0
        self.stop = threading.Event()
        self.lister = Lister(
            Folder(inbox, settings.max_upload_bytes), intake, settings, self.stop, clock=lambda: self.now
        )

    def looks(self, times: int = 2) -> None:
        for _ in range(times):
            self.now += 1
            self.lister.take_in()
            self.lister.hand_out()


def entries(db: Engine) -> dict[str, tuple[str, str | None]]:
    with db.connect() as tx:
        found = rows(tx, "select object, state, reason from omni.ledger order by ledger_id")
    return {one["object"]: (one["state"], one["reason"]) for one in found}


def names(db: Engine) -> list[str]:
    return sorted(job["name"] for job in jobs.list_page(db, "default", limit=100))


def files(inbox: Path) -> set[str]:
    return {path.relative_to(inbox).as_posix() for path in inbox.rglob("*") if path.is_file() and path.name[0] != "."}
