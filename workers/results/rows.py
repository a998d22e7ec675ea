"""The rows behind `omni_v1`, table by table; the store adds job, revision and source.

A row that is searched may not hold any amount of text: PostgreSQL's index of one text ends at 1 MiB. What is longer
than `MOST_TEXT` becomes several rows, one after the other. Result and artifacts keep it whole.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from omni_jobs.result import Caption, OnScreen, Segment, SourceResult
from workers.results.clean import clean
from workers.results.spelling import cut

Row = dict[str, Any]
MOST_TEXT = 20_000  # characters


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
        for position, segment in enumerate(part for whole in segments for part in _short_segments(whole))
    ]


def _short_segments(segment: Segment) -> Iterator[Segment]:
    """The segment, cut before words where it has words, else with its time shared out by length."""
    if len(segment.text) <= MOST_TEXT:
        yield segment
        return
    room, before = MOST_TEXT, list[int]()
    for index, word in enumerate(segment.words):
        room -= len(word.text) + 1
        if room < 0 and index:
            before.append(index)
            room = MOST_TEXT - len(word.text) - 1
    for piece in cut(segment, before):
        begin_s, length_s, size = piece.start_s, piece.end_s - piece.start_s, max(len(piece.text), 1)
        texts, at = split(piece.text), 0
        for number, text in enumerate(texts):
            start_s = begin_s + length_s * at / size
            at = at + len(text) if number + 1 < len(texts) else size
            end_s = begin_s + length_s * at / size
            times = {"start_s": round(start_s, 3), "end_s": round(end_s, 3)} if len(texts) > 1 else {}
            yield piece.model_copy(update={"text": text, "words": [] if number else piece.words, **times})


def split(text: str) -> list[str]:
    """Text in pieces of at most `MOST_TEXT` characters, cut at the last line or else the last word that fits."""
    pieces: list[str] = []
    at = 0
    while len(text) - at > MOST_TEXT:
        end = at + MOST_TEXT
        # Only the second half is looked at, so that no piece is tiny.
        half = at + MOST_TEXT // 2
        found = text.rfind("\n", half, end)
        if found < 0:
            found = max(text.rfind(space, half, end) for space in (" ", "\t"))
        end = found + 1 if found >= 0 else end
        pieces.append(text[at:end].rstrip())
        at = end
    return [*pieces, text[at:]]


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
        for position, caption in enumerate(part for whole in captions for part in _short_captions(whole))
    ]


def _short_captions(caption: Caption) -> Iterator[Caption]:
    """The caption; what stands on its screen and is too long follows in captions that say nothing else."""
    lines = [
        seen if len(seen.text) <= MOST_TEXT else seen.model_copy(update={"text": text})
        for seen in caption.on_screen
        for text in split(seen.text)
    ]
    edges, room = [0], MOST_TEXT
    for index, seen in enumerate(lines):
        room -= len(seen.text) + 1
        if room < 0 and index:
            edges.append(index)
            room = MOST_TEXT - len(seen.text) - 1
    for low, high in pairwise([*edges, len(lines)]):
        shown: list[OnScreen] = lines[low:high]
        yield caption.model_copy(update={"on_screen": shown, "text": "" if low else caption.text})


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
            "text": text,
            "rows": block.rows if text_at == 0 else None,
            "x0": block.box[0],
            "y0": block.box[1],
            "x1": block.box[2],
            "y1": block.box[3],
            "confidence": block.confidence,
        }
        for page in pages
        for number, (block, text_at, text) in enumerate(
            ((block, at, text) for block in page.blocks for at, text in enumerate(split(block.text))), start=1
        )
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
