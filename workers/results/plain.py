"""The `.txt` of a source: its words and none of ours."""

from omni_jobs.result import SourceResult
from workers.results.paragraphs import paragraphs
from workers.results.rows import screen_text

PAGE_BREAK = "\f"


def plain(source: SourceResult) -> str:
    """Paragraphs of speech, then what is seen shot by shot, then pages with a form feed between them."""
    parts: list[str] = []
    if source.transcript is not None:
        parts += [paragraph.text for paragraph in paragraphs(source.transcript)]
    if source.captions is not None:
        parts += [text for caption in source.captions.captions for text in (caption.text, screen_text(caption)) if text]
    if source.document is not None and source.document.pages:
        parts.append(PAGE_BREAK.join(f"{page.text}\n" if page.text else "" for page in source.document.pages))
    text = "\n\n".join(parts)
    return text if not text or text.endswith("\n") else f"{text}\n"
