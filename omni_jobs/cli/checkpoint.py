"""What `omni-jobs doctor --checkpoint DIR` shows: is it the model, whole, and does it fit on this card."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omni_jobs.cli.terminal import plain
from omni_jobs.cli.times import size
from omni_jobs.models import facts

KINDS = {"audio": "spans of sound", "page": "pages", "video": "clips of video"}


def examined(directory: Path) -> dict[str, Any]:
    """The workers' survey of the directory, and whether it can be used here.

    Raises:
        UsageError: it is no checkpoint at all.
        Unavailable: the survey could not be made.
    """
    found = facts.survey(directory)
    card = found["card"]
    return {"ok": found["whole"] and (card["fits"] or card["name"] is None), **found}


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report for people."""
    layers = ", ".join(f"{count:,} {format}" for format, count in report["linear_layers"].items())
    yield f"checkpoint  {plain(report['directory'])}: {size(report['size_bytes'])} in {_many(report['files'], 'file')}"
    yield f"digest      {report['digest']}"
    yield f"model       {report['parameters']:,} parameters, {_many(report['tensors'], 'tensor')}"
    yield f"format      {report['format']} (linear layers: {layers}); KV cache {report['kv_cache']}"
    for one in report["parts"]:
        yield f"part        {one['part']}: {_many(one['tensors'], 'tensor')}, {size(one['size_bytes'])}"
    yield from card_lines(report["card"])
    yield "whole       yes" if report["whole"] else f"whole       no: {_many(report['problem_count'], 'problem')}"
    for line in report["summary"]:
        yield f"problem     {plain(line)}"


def card_lines(card: dict[str, Any]) -> Iterator[str]:
    here = f"{plain(card['name'])}, {size(card['memory_bytes'])}" if card["name"] else "none here; on one of 80 GB:"
    yield f"card        {here}"
    if not card["fits"]:
        yield f"fits        no: {size(abs(card['free_bytes']))} {'left' if card['free_bytes'] > 0 else 'too few'}"
        return
    counts = ", or ".join(f"{count:,} {KINDS[kind]}" for kind, count in card["sequences"].items())
    yield f"fits        yes: beside it {counts} at once (window of {card['window_tokens']} tokens)"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
