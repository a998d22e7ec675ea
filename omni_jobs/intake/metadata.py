"""A user's metadata: kept as it came, or refused. Nothing in it is altered silently."""

from typing import Any

from omni_jobs.errors import UsageError
from omni_jobs.store.database import NOT_STORABLE

MAX_DEPTH = 32


def check_metadata(metadata: dict[str, Any]) -> None:
    """
    Raises:
        UsageError: nested too deep, or something that PostgreSQL's jsonb cannot hold; its pointer says where.
    """
    # Without recursion: how deep it is, is what we ask.
    pending: list[tuple[str, Any, int]] = [("/metadata", metadata, 1)]
    while pending:
        pointer, value, depth = pending.pop()
        match value:
            case str() if NOT_STORABLE.search(value):
                raise UsageError("text holds NUL or a lone surrogate, which no database keeps", pointer=pointer)
            case float() if value != value or value in (float("inf"), float("-inf")):
                raise UsageError("expected a finite number", pointer=pointer)
            case dict() | list() | tuple() if depth > MAX_DEPTH:
                raise UsageError(f"metadata may be nested {MAX_DEPTH} deep", pointer="/metadata")
            case dict():
                if any(NOT_STORABLE.search(str(key)) for key in value):
                    raise UsageError("a key holds NUL or a lone surrogate, which no database keeps", pointer=pointer)
                pending += [(f"{pointer}/{escaped(str(key))}", item, depth + 1) for key, item in value.items()]
            case list() | tuple():
                pending += [(f"{pointer}/{number}", item, depth + 1) for number, item in enumerate(value)]
            case _:
                pass


def escaped(key: str) -> str:
    """A part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")
