"""Subtitle files: SubRip and WebVTT of the cues of a transcript."""

from collections.abc import Iterable

from workers.results.clock import precise
from workers.results.cues import Cue


def srt(cues: Iterable[Cue]) -> str:
    """SubRip; empty without speech."""
    return "\n".join(
        f"{number}\n{precise(cue.start_ms, ',')} --> {precise(cue.end_ms, ',')}\n{_plain(cue)}\n"
        for number, cue in enumerate(cues, start=1)
    )


def vtt(cues: Iterable[Cue]) -> str:
    """WebVTT; its head alone without speech."""
    return "WEBVTT\n" + "".join(
        f"\n{precise(cue.start_ms, '.')} --> {precise(cue.end_ms, '.')}\n{_tagged(cue)}\n" for cue in cues
    )


def _plain(cue: Cue) -> str:
    # SubRip knows no escapes; an arrow inside a text would read as a time line.
    return "\n".join(cue.lines).replace("-->", "→")


def _tagged(cue: Cue) -> str:
    text = _escaped("\n".join(cue.lines))
    return text if cue.speaker is None else f"<v {_escaped(' '.join(cue.speaker.split()))}>{text}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
