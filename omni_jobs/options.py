"""What a user may ask of a job: tasks and their options, with defaults and limits."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, field_validator

from omni_jobs.job import Task

LANGUAGES = "ISO 639-1 code such as `en`, or empty to detect it."


class Options(BaseModel):
    """The options of a job. Unknown fields are errors where users name them.

    A row holds those that differ from their default (`storable`), and whoever reads it passes over what it does not
    know (`stored`): so workers of one version serve jobs of the next.

    The password of an encrypted PDF is not here: it is a secret, kept apart and never shown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[Task, ...] = Field(default=(), description="What to do; empty: what the bytes call for (`auto`).")
    language: str = Field(default="", pattern=r"^([a-z]{2,3})?$", description=LANGUAGES)
    word_times: bool = Field(default=True, description="Start and end of every word by forced alignment.")
    speakers: bool | None = Field(
        default=None,
        description="Tell apart who speaks (S1, S2, ...); null: where the workers have the extra `speakers`.",
    )
    start_s: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="Leave out what lies before this second."
    )
    end_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Leave out what lies after this second."
    )
    pages: str = Field(default="", description="Pages of a document, as `1-3,7`; empty: all.")
    frames_per_s: float = Field(
        default=1.0, gt=0, le=5, allow_inf_nan=False, description="Frames looked at per second of video."
    )
    dpi: int = Field(default=150, ge=72, le=300, description="Resolution at which pages are read.")
    summary: bool = Field(
        default=True, description="An extractive summary: sentences out of the source, with their places."
    )

    on_gap: Literal["partial", "fail"] = Field(
        default="partial",
        description="A part without an answer: the rest is delivered and the gap named, or the job fails.",
    )

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> "Options":
        """The options of a row, which another version may have written."""
        if unknown := sorted(data.keys() - cls.model_fields.keys()):
            structlog.get_logger().warning("options.unknown", names=unknown)
        return cls.model_validate({name: value for name, value in data.items() if name in cls.model_fields})

    def storable(self) -> dict[str, Any]:
        """What a row holds: the options that differ from their default."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def effective(self) -> dict[str, Any]:
        """Every option with its value: the same whether a default was left out or written down."""
        return self.model_dump(mode="json")

    @field_validator("pages")
    @classmethod
    def _pages(cls, value: str) -> str:
        page_ranges(value)
        return value.replace(" ", "")

    @field_validator("end_s")
    @classmethod
    def _end(cls, value: float | None, info: object) -> float | None:
        start = getattr(info, "data", {}).get("start_s", 0.0)
        if value is not None and value <= start:
            raise ValueError(f"end_s must lie after start_s: got {start} to {value}")
        return value


def page_ranges(text: str) -> list[tuple[int, int]]:
    """`1-3,7` as [(1, 3), (7, 7)]; `5-` has no end and gives (5, 2**31 - 1).

    Raises:
        ValueError: not such a list, a page below 1, or a range that runs backwards.
    """
    ranges: list[tuple[int, int]] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"([0-9]{1,9})(?:(-)([0-9]{0,9}))?", part)
        if not match:
            raise ValueError(f"expected pages such as 1-3,7, got {part!r}")
        first = int(match[1])
        last = first if not match[2] else int(match[3]) if match[3] else 2**31 - 1
        if first < 1 or last < first:
            raise ValueError(f"expected pages from 1 on in rising order, got {part!r}")
        ranges.append((first, last))
    return ranges


TaskName = Literal["auto", "transcribe", "caption", "document"]
