"""How far a job is, as one number and the seconds that are left. Pure."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from omni_jobs.job import JobState, Phase

# Shares of the whole at which the phases begin; the map phase is measured, the others are short.
BEGINS = {Phase.PREPARE: 0.0, Phase.MAP: 0.03, Phase.REDUCE: 0.95, Phase.DELIVER: 0.98}
# What a second of word alignment, and a page, weigh against a second of media.
WORDS_WEIGHT = 0.25
PAGE_WEIGHT = 5.0
# Earlier than this a rate says nothing.
ETA_FROM = 0.05


class Progress(BaseModel):
    units_done: int
    units_total: int
    units_dead: int
    media_s_done: float
    media_s_total: float
    words_s_done: float
    words_s_total: float
    pages_done: int
    pages_total: int
    fraction: float = Field(ge=0, le=1, description="Of the whole job; 1 when it is delivered.")
    eta_s: float | None = Field(description="Seconds left at the pace so far; null while nobody can tell.")

    @classmethod
    def of(cls, row: dict[str, Any], now: datetime) -> "Progress":
        counts = {name: value for name, value in row["progress"].items() if name in cls.model_fields}
        share = fraction(JobState(row["state"]), Phase(row["phase"]), counts)
        return cls(**counts, fraction=round(share, 4), eta_s=_eta_s(row, share, now))


def fraction(state: JobState, phase: Phase, counts: dict[str, Any]) -> float:
    if state in (JobState.SUCCEEDED, JobState.PARTIAL):
        return 1.0
    if phase is not Phase.MAP:
        return BEGINS[phase]
    done, total = (
        counts[f"media_s_{which}"] + WORDS_WEIGHT * counts[f"words_s_{which}"] + PAGE_WEIGHT * counts[f"pages_{which}"]
        for which in ("done", "total")
    )
    share = min(1.0, done / total) if total else 0.0
    return BEGINS[Phase.MAP] + (BEGINS[Phase.REDUCE] - BEGINS[Phase.MAP]) * share


def _eta_s(row: dict[str, Any], share: float, now: datetime) -> float | None:
    if row["state"] != JobState.RUNNING.value or row["started_at"] is None or share < ETA_FROM:
        return None
    elapsed = max(0.0, (now - row["started_at"]).total_seconds())
    return round(elapsed / share * (1.0 - share), 1)
