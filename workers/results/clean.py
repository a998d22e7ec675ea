"""Text that any store takes: PostgreSQL refuses NUL, UTF-8 refuses half a surrogate pair."""

import re
from typing import Any

# Lone ones only: in a Python string a whole pair is already one character.
REFUSED = re.compile("[\0\ud800-\udfff]")


def clean(value: Any) -> Any:
    """The same JSON value without characters that a store would refuse."""
    match value:
        case str():
            return REFUSED.sub("", value)
        case dict():
            return {clean(key): clean(item) for key, item in value.items()}
        case list() | tuple():
            return [clean(item) for item in value]
        case _:
            return value
