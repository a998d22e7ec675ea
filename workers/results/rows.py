"""The rows behind `omni_v1`, table by table; the store adds job, revision and source."""

from typing import Any

from omni_jobs.result import Caption, SourceResult
from workers.results.clean import clean

Row = dict[str, Any]


def rows_of(source: SourceResult) -> dict[str, list[Row]]:
    """Rows of a source for each table, the columns in the same order in each row of a table."""
    tables: dict[str, list[Row]] = {
        "segments": _segments(source),
        "captions": _captions(source),
        "pages": _pages(source),
        "blocks": _blocks(source),
        "coverage": _coverage(source),
        "summaries": _summaries(source),
    }
    return clean(tables)


def _segments(source: SourceResult) -> list[Row]:
    segments = source.transcript.segments if source.transcript else []
    return [
        {
            "position": position,
            "start_s": segment.start_s,
            "end_s": segment.end_s,
            "text": segment.text,
            "language": segment.language,
            "speaker": segment.speaker,
            "confidence": segment.confidence,
            "words": [word.model_dump(mode="json") for word in segment.words],
        }
        for position, segment in enumerate(segments)
    ]


def _captions(source: SourceResult) -> list[Row]:
    captions = source.captions.captions if source.captions else []
    return [
        {
            "position": position,
            "start_s": caption.start_s,
            "end_s": caption.end_s,
            "text": caption.text,
            "sound": caption.sound,
            "on_screen": [seen.model_dump(mode="json") for seen in caption.on_screen],
            "evidence": caption.evidence,
            "screen": screen_text(caption),
        }
        for position, caption in enumerate(captions)
    ]


def screen_text(caption: Caption) -> str:
    """What stands on the screen during a shot, each line once."""
    return "\n".join(dict.fromkeys(seen.text for seen in caption.on_screen))


def _pages(source: SourceResult) -> list[Row]:
    pages = source.document.pages if source.document else []
    return [
        {
            "page": page.page,
            "width_pt": page.width_pt,
            "height_pt": page.height_pt,
            "rotation": page.rotation,
            "text_source": page.text_source,
            "reason": page.reason,
            "text": page.text,
        }
        for page in pages
    ]


def _blocks(source: SourceResult) -> list[Row]:
    pages = source.document.pages if source.document else []
    return [
        {
            "page": page.page,
            "block": number,
            "kind": block.kind,
            "text": block.text,
            "rows": block.rows,
            "x0": block.box[0],
            "y0": block.box[1],
            "x1": block.box[2],
            "y1": block.box[3],
            "confidence": block.confidence,
        }
        for page in pages
        for number, block in enumerate(page.blocks, start=1)
    ]


def _coverage(source: SourceResult) -> list[Row]:
    return [
        {
            "position": position,
            "medium": entry.medium,
            "state": entry.state,
            "reason": entry.reason,
            "start_s": entry.start_s,
            "end_s": entry.end_s,
            "page": entry.page,
        }
        for position, entry in enumerate(source.coverage.entries)
    ]


def _summaries(source: SourceResult) -> list[Row]:
    summary = source.summary
    if summary is None:
        return []
    return [
        {
            "position": position,
            "method": summary.method,
            "text": sentence.text,
            "start_s": sentence.start_s,
            "end_s": sentence.end_s,
            "page": sentence.page,
        }
        for position, sentence in enumerate(summary.sentences)
    ]
