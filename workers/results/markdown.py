"""The `.md` of a source: everything there is, for a reader, with the gaps by name."""

import re
from collections.abc import Iterable, Iterator, Sequence

from omni_jobs.result import (
    Block,
    Captions,
    Coverage,
    Covered,
    Document,
    Page,
    SourceResult,
    Summary,
    SummarySentence,
    Transcript,
)
from workers.results.clock import clock
from workers.results.paragraphs import paragraphs
from workers.results.rows import screen_text

# An ampersand only where what follows makes an entity of it.
MARKS = re.compile(r"([\\`*_\[\]<>|]|&(?=#?\w+;))")
# What makes a heading, a list, a rule or a quote at the start of a line.
LINE_STARTS = re.compile(r"(?m)^(\s*)([#+=~-]|\d+(?=[.)]))")
MEDIA = {"speech": "Speech", "video": "Video", "page": "Pages"}


def markdown(source: SourceResult) -> str:
    sections: list[Iterable[str]] = [[f"# {_line(source.name)}"], _facts(source)]
    if source.error is not None:
        sections.append([f"**There is no result:** {_line(source.error.message)}"])
    if source.summary is not None and source.summary.sentences:
        sections.append(_summary(source.summary))
    if source.transcript is not None:
        sections.append(_transcript(source.transcript))
    if source.captions is not None:
        sections.append(_captions(source.captions))
    if source.document is not None:
        sections.append(_document(source.document))
    sections.append(_coverage(source.coverage))
    return "\n\n".join(block for section in sections for block in section if block) + "\n"


def _line(text: str) -> str:
    """Text as it stands, on one line, with nothing in it that Markdown would read."""
    return _text(" ".join(text.split()))


def _text(text: str) -> str:
    """The same with its lines kept."""

    def shielded(match: re.Match[str]) -> str:
        # A number stays as it is: the dot after it makes the list.
        return f"{match[1]}{match[2]}\\" if match[2].isdigit() else f"{match[1]}\\{match[2]}"

    return LINE_STARTS.sub(shielded, MARKS.sub(r"\\\1", text))


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the head; short rows are filled."""
    width = max((len(row) for row in rows), default=0)
    if not width:
        return ""
    filled = [[*map(_cell, row), *[""] * (width - len(row))] for row in rows]
    lines = [filled[0], ["---"] * width, *filled[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return MARKS.sub(r"\\\1", " ".join(text.split()))


def _facts(source: SourceResult) -> Iterator[str]:
    facts = {
        "Source": source.uri,
        "Medium": source.medium and f"{source.medium} ({source.container})" if source.container else source.medium,
        "Length": clock(source.duration_s) if source.duration_s is not None else None,
        "Pages": source.pages,
        "Size": f"{source.size_bytes:,} bytes" if source.size_bytes is not None else None,
        "SHA-256": source.sha256,
        "Language": source.transcript.language if source.transcript else None,
        "Tasks": ", ".join(source.tasks),
    }
    yield _table([["", ""], *([name, str(value)] for name, value in facts.items() if value)])


def _summary(summary: Summary) -> Iterator[str]:
    yield "## Summary"
    yield "\n".join(f"- {_line(sentence.text)}{_place(sentence)}" for sentence in summary.sentences)


def _place(sentence: SummarySentence) -> str:
    if sentence.page is not None:
        return f" ([page {sentence.page}](#page-{sentence.page}))"
    return f" [{clock(sentence.start_s)}]" if sentence.start_s is not None else ""


def _transcript(transcript: Transcript) -> Iterator[str]:
    yield "## Transcript"
    for note in transcript.notes:
        yield f"*Note: {_line(note)}*"
    if not transcript.segments:
        yield "Nobody speaks."
    for paragraph in paragraphs(transcript):
        speaker = f"**{_line(paragraph.speaker)}:** " if paragraph.speaker else ""
        yield f"[{clock(paragraph.start_s)}] {speaker}{_line(paragraph.text)}"


def _captions(captions: Captions) -> Iterator[str]:
    yield "## Video"
    for caption in captions.captions:
        shown = " / ".join(_line(text) for text in screen_text(caption).splitlines() if text.strip())
        seen = f"On screen: {shown}" if shown else ""
        yield f"[{clock(caption.start_s)} - {clock(caption.end_s)}] " + "  \n".join(
            filter(None, [_line(caption.text), seen])
        )


def _document(document: Document) -> Iterator[str]:
    yield "## Document"
    for page in document.pages:
        yield from _page(page)


def _page(page: Page) -> Iterator[str]:
    yield f"### Page {page.page}"
    for block in page.blocks:
        yield _block(block)


def _block(block: Block) -> str:
    match block.kind:
        case "title":
            return f"#### {_line(block.text)}" if block.text else ""
        case "heading":
            return f"##### {_line(block.text)}" if block.text else ""
        case "list":
            return "\n".join(f"- {_line(_unmarked(line))}" for line in block.text.splitlines() if line.strip())
        case "table" if block.rows:
            return _table(block.rows)
        case "code":
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
            return f"{fence}\n{block.text}\n{fence}"
        case _:
            return _text(block.text)


def _unmarked(line: str) -> str:
    return re.sub(r"^\s*[•●▪◦‣*–-]\s+", "", line)


def _coverage(coverage: Coverage) -> Iterator[str]:
    yield "## Coverage"
    if coverage.totals:
        rows = [["", "asked for", "done", "empty", "failed"]]
        for medium, total in coverage.totals.items():
            show = (lambda pages: f"{pages:g}") if medium == "page" else (lambda seconds: f"{seconds:.3f} s")
            rows.append([MEDIA[medium], *(show(part) for part in (total.total, total.done, total.empty, total.failed))])
        yield _table(rows)
    gaps = [entry for entry in coverage.entries if entry.state == "failed"]
    if gaps:
        yield "\n".join(f"- {_gap(entry)}: {_line(entry.reason)}" for entry in gaps)
    else:
        yield "No gaps."


def _gap(entry: Covered) -> str:
    if entry.start_s is None or entry.end_s is None:
        return f"Page {entry.page} failed"
    return f"{MEDIA[entry.medium]} [{clock(entry.start_s)} - {clock(entry.end_s)}] failed"
