"""What was given up: the units to look at before `retry`."""

from typing import Annotated

from fastapi import APIRouter, Query

from omni_jobs.api.parts import Use
from omni_jobs.api.schemas import DeadUnit, DeadUnits
from omni_jobs.store import units

router = APIRouter(tags=["jobs"])


@router.get("/v1/dead", response_model=DeadUnits, summary="Units that were given up, newest first")
def dead(parts: Use, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> DeadUnits:
    """Each with the job it belongs to, how its attempts ended, and its last error."""
    return DeadUnits(units=[DeadUnit(**one) for one in units.dead(parts.db, parts.tenant, limit=limit)])
