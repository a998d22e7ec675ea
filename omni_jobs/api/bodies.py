"""JSON bodies: read without recursion, so that no nesting hits a limit of the parser."""

import json
import re
from typing import Any

from omni_jobs.api.problems import Malformed
from omni_jobs.errors import UsageError
from omni_jobs.intake.metadata import MAX_DEPTH, escaped

# What surrounds the metadata, with room for what else may be nested.
DEEPEST = MAX_DEPTH + 8
# A string (also one that does not end: then the parser says so), or a bracket. It never looks at a byte twice.
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', re.DOTALL)


def parse(body: bytes) -> Any:
    """
    Raises:
        Malformed: no JSON.
        UsageError: nested too deep; the pointer names the field.
    """
    try:
        text = body.decode()
        if text.count("[") + text.count("{") > DEEPEST:
            _measure(text)
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"expected JSON: {error}") from error


def _measure(text: str) -> None:
    depth, field = 0, ""
    for token in TOKEN.finditer(text):
        match token[0][0]:
            case '"' if depth == 1:
                field = token[0]
            case '"':
                pass
            case "]" | "}":
                depth -= 1
            case _:
                depth += 1
                if depth > DEEPEST:
                    raise _too_deep(field)


def _too_deep(field: str) -> UsageError:
    sentence = f"JSON may be nested {MAX_DEPTH} deep"
    try:
        return UsageError(sentence, pointer=f"/{escaped(json.loads(field))}")
    except ValueError:
        return Malformed(sentence)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
