"""What a model said, read: reasoning taken out, JSON found where it stands, and checked against its shape."""

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from workers.backends.backend import Unusable
from workers.prompts import Said, Shape

OPEN, CLOSE = "<think>", "</think>"
# Marks of the chat template that a server without its stop tokens lets through.
MARKS = re.compile(r"<\|im_(?:start|end)\|>|</s>\s*$")
FENCE = re.compile(r"```(?:[a-zA-Z]+)?[ \t]*\r?\n(.*?)```", re.DOTALL)
MOST_PLACES = 64  # at which JSON might begin
SHOWN = 120


def answer_of(content: str) -> str:
    """The answer without what was thought before it, which a server without a reasoning parser leaves inside.

    The template opens the thought, so often only its end is there. One that is opened and never closed is all thought.
    """
    _, closed, after = content.rpartition(CLOSE)
    text = after if closed else content.partition(OPEN)[0]
    return MARKS.sub("", text).strip()


def has_reasoning(content: str) -> bool:
    """Whether somebody's thoughts stand in the content; an empty pair of marks is none."""
    before = content.rpartition(CLOSE)[0] or (content.partition(OPEN)[2] if OPEN in content else "")
    return bool(before.replace(OPEN, "").strip())


def parse(text: str, shape: type[Said]) -> Said:
    """JSON of this shape out of a text: all of it, in a fence, or with words around it.

    Raises:
        Unusable: there is none.
    """
    problem = "no JSON"
    for found in _documents(text):
        try:
            return shape.model_validate(_fitted(found, shape), extra="ignore")
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
    shown = " ".join(text.split())
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
    raise Unusable("schema", f"expected JSON as asked for, got {shown!r} ({problem})")


def _documents(text: str) -> Iterator[Any]:
    """Every object or list in the text that may be meant, the likeliest first."""
    for candidate in (text, *FENCE.findall(text)):
        try:
            yield json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    decoder = json.JSONDecoder()
    end = 0
    for place, match in enumerate(re.finditer(r"[{\[]", text)):
        if place >= MOST_PLACES:
            return
        if match.start() < end:
            continue
        try:
            found, end = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        yield found


def _fitted(found: Any, shape: type[Shape]) -> Any:
    """A bare list where the shape has one list that is needed: models leave the name around it away."""
    needed = [name for name, field in shape.model_fields.items() if field.is_required()]
    return {needed[0]: found} if isinstance(found, list) and len(needed) == 1 else found
