"""A transcript as a reader takes it: paragraphs."""

from collections.abc import Iterator
from dataclasses import dataclass

from omni_jobs.result import Segment, Transcript

PAUSE_S = 2.0
LENGTH = 600  # characters after which the end of a sentence ends the paragraph


@dataclass(frozen=True, slots=True)
class Paragraph:
    start_s: float
    text: str
    speaker: str | None = None


def paragraphs(transcript: Transcript) -> Iterator[Paragraph]:
    """Broken at long pauses, at changes of speaker, and between sentences once long."""
    held: list[Segment] = []
    for segment in transcript.segments:
        if not segment.text:
            continue
        if held and _breaks(held, segment):
            yield _paragraph(held)
            held = []
        held.append(segment)
    if held:
        yield _paragraph(held)


def _breaks(held: list[Segment], segment: Segment) -> bool:
    last = held[-1]
    long = sum(len(one.text) for one in held) > LENGTH and last.text.endswith((".", "?", "!", "…", "。", "！", "？"))
    return long or segment.start_s - last.end_s > PAUSE_S or segment.speaker != last.speaker


def _paragraph(held: list[Segment]) -> Paragraph:
    # Chinese and Japanese put no spaces, so none between their sentences either.
    between = "" if held[0].language in ("zh", "ja", "yue") else " "
    return Paragraph(held[0].start_s, between.join(segment.text for segment in held), held[0].speaker)
