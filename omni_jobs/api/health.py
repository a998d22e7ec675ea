"""Whether this process lives, and whether what it needs answers. No key is asked for."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fastapi import APIRouter, Response

from omni_jobs import broker
from omni_jobs.api.parts import Parts, Use
from omni_jobs.api.schemas import Alive, Ready
from omni_jobs.errors import NotFound, OmniError
from omni_jobs.store import schema

router = APIRouter(prefix="/health", tags=["health"])

LOOK_TIMEOUT_S = 3.0
# Looks at parts that hang must not take the threads of others.
_looks = ThreadPoolExecutor(6, thread_name_prefix="health")


@router.get("/live", response_model=Alive)
async def live() -> Alive:
    return Alive()


@router.get("/ready", response_model=Ready, responses={503: {"model": Ready}})
async def ready(parts: Use, response: Response) -> Ready:
    """503 unless database and object store answer; without the broker jobs start a second later: `degraded`."""
    found = await asyncio.gather(*(_look(check, parts) for check in (_database, _blobs, _broker)))
    states: dict[str, str] = dict(zip(("database", "blobs", "broker"), found, strict=True))
    if states["database"] != "ok" or states["blobs"] != "ok":
        response.status_code = 503
        return Ready(status="unready", parts=states)
    return Ready(status="ready" if states["broker"] == "ok" else "degraded", parts=states)


async def _look(check: Callable[[Parts], None], parts: Parts) -> str:
    try:
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(_looks, check, parts), LOOK_TIMEOUT_S)
    except TimeoutError:
        return f"no answer within {LOOK_TIMEOUT_S:.0f} s"
    except OmniError as error:
        return str(error)
    except Exception as error:
        # Its text may hold addresses and account names.
        return f"does not answer: {type(error).__name__}"
    return "ok"


def _database(parts: Parts) -> None:
    schema.require(parts.db)


def _blobs(parts: Parts) -> None:
    try:
        parts.reads.blobs.get(f"{parts.tenant}/.ready")
    except NotFound:
        pass


def _broker(parts: Parts) -> None:
    broker.ping(parts.settings)
