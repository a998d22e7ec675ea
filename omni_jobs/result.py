"""The result of a job: `result.json`, its published JSON Schema, and the rows behind `omni_v1`.

Times are seconds of the source, boxes are points of the page as shown (origin top left) or 0..1 of a frame.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from omni_jobs.errors import ErrorType

SCHEMA_ID = "https://omni-jobs.dev/schema/result-1.json"
Box = tuple[float, float, float, float]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Word(Part):
    text: str
    start_s: float
    end_s: float
    confidence: float | None = None
    method: str = Field(description="how the times were found: `alignment`, `whisper` or `estimated`")
    speaker: str | None = None


class Segment(Part):
    start_s: float
    end_s: float
    text: str
    language: str = ""
    confidence: float | None = None
    speaker: str | None = None
    words: list[Word] = []


class Turn(Part):
    """Somebody speaks; turns of two people may overlap."""

    start_s: float
    end_s: float
    speaker: str


class Transcript(Part):
    language: str = Field(description="language of most of the speech, empty when nobody speaks")
    segments: list[Segment] = []
    turns: list[Turn] = Field(default=[], description="who speaks when, named S1, S2, ... in order of first speech")
    notes: list[str] = Field(default=[], description="such as: why words have no aligned times")


class OnScreen(Part):
    text: str
    box: Box
    time_s: float
    confidence: float | None = Field(default=None, description="0..1; null when the reader does not say")


class Caption(Part):
    start_s: float
    end_s: float
    text: str
    sound: Literal["speech", "sound", "silence", "none"] = "none"
    on_screen: list[OnScreen] = []
    evidence: dict[str, Any] = {}


class Captions(Part):
    captions: list[Caption] = []


class Block(Part):
    kind: str
    box: Box
    text: str
    rows: list[list[str]] | None = None
    confidence: float | None = None


class Page(Part):
    page: int
    width_pt: float
    height_pt: float
    rotation: int = 0
    text_source: Literal["text_layer", "ocr", "none"]
    reason: str = ""
    text: str = ""
    blocks: list[Block] = []


class Document(Part):
    pages: list[Page] = []


class SummarySentence(Part):
    text: str
    start_s: float | None = None
    end_s: float | None = None
    page: int | None = None


class Summary(Part):
    method: str
    sentences: list[SummarySentence] = []


class Failure(Part):
    type: ErrorType
    message: str
    retryable: bool = False


class Covered(Part):
    """A stretch of the source and what became of it. The entries of a medium neither overlap nor leave a hole."""

    medium: Literal["speech", "video", "page"]
    state: Literal["done", "empty", "failed"]
    reason: str = Field(default="", description="why it is empty or failed; of done, what is not known of it")
    start_s: float | None = None
    end_s: float | None = None
    page: int | None = None


class Total(Part):
    """Seconds, or pages: total = done + empty + failed, exactly."""

    total: float
    done: float = 0
    empty: float = 0
    failed: float = 0


class Coverage(Part):
    totals: dict[Literal["speech", "video", "page"], Total] = {}
    entries: list[Covered] = []


class Answerer(Part):
    """Who answered: backend, models with their versions, and the digest of the weights."""

    backend: str
    models: dict[str, str]
    digest: str
    version: str = Field(description="version of omni-jobs")


class SourceResult(Part):
    source_id: str
    name: str
    uri: str
    sha256: str | None
    size_bytes: int | None
    medium: str | None
    container: str | None = None
    duration_s: float | None = None
    pages: int | None = None
    tasks: list[str] = []
    transcript: Transcript | None = None
    captions: Captions | None = None
    document: Document | None = None
    summary: Summary | None = None
    coverage: Coverage = Coverage()
    error: Failure | None = None


class JobPart(Part):
    job_id: str
    revision: int
    state: str
    created_at: str
    options: dict[str, Any]
    reused_from: str | None = None


class Result(Part):
    model_config = ConfigDict(extra="forbid", title="omni-jobs result", json_schema_extra={"$id": SCHEMA_ID})

    schema_version: Literal["1"] = "1"
    job: JobPart
    answered_by: Answerer
    sources: list[SourceResult]
    warnings: list[str] = []


def json_schema() -> dict[str, Any]:
    """The published JSON Schema (2020-12) of `result.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Result.model_json_schema()}
