"""What must come back for a unit: the shapes that backends return and rows keep (as jsonb).

Times are seconds of the *source*, boxes are points of the page as shown, origin top left.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Box = tuple[float, float, float, float]


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SpokenWord(Answer):
    text: str
    start_s: float
    end_s: float
    confidence: float | None = None
    method: str = Field(description="`alignment`, `whisper`, or `estimated`")


class SpokenSegment(Answer):
    """A sentence or phrase; `text` is what a reader sees, `words` its words in order."""

    start_s: float
    end_s: float
    text: str
    confidence: float | None = Field(default=None, description="0..1: exp of the mean log-probability of its tokens")
    no_speech: float | None = Field(default=None, description="0..1: the model's own guess that nobody speaks")
    words: list[SpokenWord] = []


class SpanAnswer(Answer):
    language: str = Field(description="ISO 639-1, empty when nobody speaks")
    language_confidence: float | None = None
    segments: list[SpokenSegment] = []
    method: Literal["spans", "utterances"] = "spans"


class WordsAnswer(Answer):
    """The words of a span once aligned, grouped like the segments of its answer."""

    method: str = Field(description="`alignment`, or `whisper` with `reason` where the aligner does not cover it")
    reason: str = ""
    confidence: float | None = Field(default=None, description="median over the words")
    segments: list[list[SpokenWord]] = []


class SpeakerTurn(Answer):
    start_s: float
    end_s: float
    speaker: str


class SpeakersAnswer(Answer):
    """Who speaks when, over a whole source, in time order; speakers are S1, S2, ... in order of first speech."""

    turns: list[SpeakerTurn] = []


class ScreenText(Answer):
    """Text seen in a frame; the box is in 0..1 of the frame, all of it where the reader does not say where."""

    text: str
    box: Box
    time_s: float
    confidence: float | None = None


class ShotAnswer(Answer):
    start_s: float
    end_s: float
    text: str = Field(description="what can truthfully be said, in one sentence or two")
    on_screen: list[ScreenText] = []
    sound: Literal["speech", "sound", "silence", "none"] = "none"
    evidence: dict[str, Any] = {}


class ClipAnswer(Answer):
    shots: list[ShotAnswer] = []


class PageBlock(Answer):
    kind: Literal["title", "heading", "text", "list", "table", "caption", "header", "footer", "figure", "code"] = "text"
    box: Box
    text: str
    rows: list[list[str]] | None = Field(default=None, description="cells of a table, row by row")
    confidence: float | None = None


class PageAnswer(Answer):
    """The blocks of a page in reading order."""

    source: Literal["text_layer", "ocr", "none"]
    reason: str = Field(default="", description="why the text layer was not used, where there was one")
    unread: str = Field(default="", description="what was seen of the page and is not in the blocks, in a sentence")
    rotation: int = 0
    language: str = ""
    blocks: list[PageBlock] = []


class SummarySentence(Answer):
    """A sentence out of the source, and where it stands."""

    text: str
    start_s: float | None = None
    end_s: float | None = None
    page: int | None = None


class ReduceAnswer(Answer):
    method: Literal["extractive", "model", "none"] = "none"
    sentences: list[SummarySentence] = []
