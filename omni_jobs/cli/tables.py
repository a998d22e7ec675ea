"""Rows for people: columns as wide as they need to be, each value on one line."""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from omni_jobs.cli.terminal import plain

WIDEST = 80


def print_table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    cells = [[_text(value) for value in row] for row in rows]
    numeric = [all(_is_number(row[n]) for row in cells) for n in range(len(names))]
    widths = [max([_width(name), *(_width(row[n]) for row in cells)]) for n, name in enumerate(names)]
    for line in (list(names), ["-" * width for width in widths], *cells):
        padded = (_padded(text, width, right) for text, width, right in zip(line, widths, numeric, strict=True))
        print("  ".join(padded).rstrip())


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes | memoryview):
        return _short(f"\\x{value.hex()}")
    return _short(plain(json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)))


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _is_number(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _padded(text: str, width: int, right: bool) -> str:
    room = " " * (width - _width(text))
    return room + text if right else text + room
