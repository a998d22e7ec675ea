"""Jobs and workers to play with."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from omni_jobs.store import submissions, workers
from omni_jobs.store.submissions import NewJob, NewSource


@pytest.fixture
def make_job(db: Engine) -> Callable[..., str]:
    def make(tenant: str = "acme", sources: int = 1, options: dict[str, object] | None = None, **more: object) -> str:
        options = {"summary": False, **(options or {})}
        files = tuple(NewSource(f"upload:{n}.wav", f"{n}.wav", f"k{n}", "0" * 64, 10) for n in range(sources))
        return submissions.insert(db, NewJob(tenant, files, options, **more))[0]  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_worker(db: Engine) -> Callable[..., str]:
    def make(pool: str = "cpu", pid: int = 1) -> str:
        return workers.register(db, pool=pool, host="here", pid=pid, pid_started=1, version="t", backend=None)

    return make
