"""The files of a result, rendered: the same result gives the same bytes."""

import json
from dataclasses import dataclass

from omni_jobs.result import Result, SourceResult
from workers.results.clean import clean
from workers.results.cues import cues_of
from workers.results.markdown import markdown
from workers.results.plain import plain
from workers.results.subtitles import srt, vtt

MEDIA_TYPES = {
    "json": "application/json",
    "txt": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "manifest": "application/json",
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A file of a result, before it is stored.

    Attributes:
        format: a key of `MEDIA_TYPES`.
        source_id: the source it is about; None for the whole job.
    """

    name: str
    format: str
    data: bytes
    source_id: str | None = None

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.format]


def render(result: Result) -> list[Rendered]:
    """`result.json`, and the other files of each source: with several sources their names begin with its number."""
    files = [Rendered("result.json", "json", as_json(clean(result.model_dump(mode="json"))))]
    for number, source in enumerate(result.sources, start=1):
        prefix = f"{number:02}-" if len(result.sources) > 1 else ""
        files += _files(source, prefix)
    return files


def as_json(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"{text}\n".encode()


def _files(source: SourceResult, prefix: str) -> list[Rendered]:
    texts = {"text.txt": plain(source), "result.md": markdown(source)}
    if source.transcript is not None:
        cues = cues_of(source.transcript)
        texts |= {"subtitles.srt": srt(cues), "subtitles.vtt": vtt(cues)}
    return [
        Rendered(prefix + name, name.rpartition(".")[2], clean(text).encode(), source.source_id)
        for name, text in texts.items()
    ]
