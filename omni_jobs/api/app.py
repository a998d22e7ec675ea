"""The HTTP API of one tenant."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

import omni_jobs
from omni_jobs.access import Gate
from omni_jobs.api import dead, health, jobs, metrics, openapi, problems, results
from omni_jobs.api.parts import open_parts
from omni_jobs.api.principal import Door
from omni_jobs.settings import Settings
from omni_jobs.store import schema


def create_app(settings: Settings) -> FastAPI:
    """The app; its lifespan opens database, object store and bell.

    Raises:
        Refused: there is a key that we may not read. On start: the database is behind (names `omni-jobs migrate`).
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with open_parts(settings) as parts:
            schema.require(parts.db)
            app.state.parts = parts
            yield

    app = _Described(
        title="omni-jobs",
        summary="Audio, video and PDF in; queryable data out.",
        version=omni_jobs.__version__,
        lifespan=lifespan,
        redoc_url=None,
    )
    # Set when we are told to end: whoever waits is answered.
    app.state.stopping = False
    problems.handle(app)
    app.state.counts = metrics.Counts()
    app.add_middleware(Door, gate=Gate.of(settings))
    # Outermost: what the door refuses is an answer, too.
    app.add_middleware(metrics.Counting, counts=app.state.counts)
    for router in (jobs.router, results.router, dead.router, metrics.router, health.router):
        app.include_router(router)
    return app


class _Described(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            self.openapi_schema = openapi.describe(self)
        return self.openapi_schema
