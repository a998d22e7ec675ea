"""A JSON schema from outside, as the text that is compiled into a grammar.

Between the tokens of JSON stand at most a blank, or a line break and its indentation, so that no answer fills its
length with blanks.
"""

import json
from collections.abc import Mapping
from typing import Any

from omni_jobs.errors import UsageError

MAX_CHARS = 65_536  # compiles within a second
MAX_DEPTH = 64
BLANKS = r"( |\n {0,32})"
OPTIONS = "x-guidance"  # where llguidance takes the options of its compiler from
AT = "/json_schema"


class SchemaError(UsageError):
    """A JSON schema that answers cannot be held to; the message says which part."""


def schema_text(schema: Mapping[str, Any]) -> str:
    """A schema as the text that is compiled.

    Raises:
        SchemaError: too long, too deep, no JSON, or with options of the compiler inside.
    """
    if not isinstance(schema, Mapping):
        raise SchemaError(f"json_schema: expected an object, got {type(schema).__name__}", pointer=AT)
    depth = _depth(schema)
    if depth > MAX_DEPTH:
        raise SchemaError(f"json_schema: expected at most {MAX_DEPTH} levels, got more", pointer=AT)
    if OPTIONS in schema:
        raise SchemaError(
            f"json_schema: expected JSON schema, got the key {OPTIONS}", pointer=f"/json_schema/{OPTIONS}"
        )
    try:
        text = json.dumps({**schema, OPTIONS: {"whitespace_pattern": BLANKS}}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"json_schema: expected JSON, got {error}", pointer=AT) from error
    if len(text) > MAX_CHARS:
        got = f"expected at most {MAX_CHARS} characters, got {len(text)}"
        raise SchemaError(f"json_schema: {got}", pointer=AT, kind="too_large")
    return text


def _depth(schema: Any) -> int:
    """Levels of nesting, counted no further than one beyond the limit."""
    level, depth = [schema], 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
            if isinstance(inner, Mapping | list)
        ]
    return depth
