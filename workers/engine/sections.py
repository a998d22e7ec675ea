"""Reading JSON objects into frozen dataclasses: types, ranges and a pointer to the key at fault.

A dataclass is the table: its annotations say the type of a key, its defaults which keys may be absent. Whole numbers
are sizes and counts, so at least 1; token ids (`..._id`) may be 0.
"""

import json
import math
from dataclasses import MISSING, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omni_jobs.errors import UsageError

T = TypeVar("T")
MAX_JSON_BYTES = 64 << 20


class ConfigError(UsageError, ValueError):
    """A key of a configuration file is absent, of another type, or holds what this engine does not compute.

    `pointer` is the JSON pointer of the key, where one key is at fault.
    """


def mismatch(pointer: str, expected: str, got: Any) -> ConfigError:
    shown = "nothing" if got is MISSING else json.dumps(got, default=repr)
    return ConfigError(f"{pointer}: expected {expected}, got {shown[:80]}", pointer=pointer)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ConfigError: no such file, no JSON, no object, or larger than a configuration can be.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ConfigError(f"{path.name}: expected at most {MAX_JSON_BYTES} bytes, got {size}")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name}: expected JSON, got something else: {str(error)[:100]}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path.name}: expected a JSON object, got {type(value).__name__}")
    return value


def section(raw: dict[str, Any], key: str, pointer: str = "") -> dict[str, Any]:
    """The object under a key."""
    value = raw.get(key, MISSING)
    if not isinstance(value, dict):
        raise mismatch(f"{pointer}/{key}", "an object", value)
    return value


def read(cls: type[T], raw: dict[str, Any], pointer: str, **given: Any) -> T:
    """A dataclass filled from the keys of its fields' names; `given` stands above the file.

    Raises:
        ConfigError: a key without a default is absent, or its value is of another type.
    """
    hints = get_type_hints(cls)
    values = dict(given)
    for field in fields(cls):  # pyright: ignore[reportArgumentType]
        if field.name in given:
            continue
        if field.name in raw:
            values[field.name] = _value(raw[field.name], hints[field.name], field.name, f"{pointer}/{field.name}")
        elif field.default is MISSING:
            raise mismatch(f"{pointer}/{field.name}", _words(hints[field.name], field.name), MISSING)
    return cls(**values)


def demand(raw: dict[str, Any], only: dict[str, Any], pointer: str) -> None:
    """Refuses a key that holds something else than the one value this engine computes; an absent key is that value."""
    for key, value in only.items():
        if key in raw and raw[key] != value:
            raise mismatch(f"{pointer}/{key}", f"{json.dumps(value)} (nothing else is computed here)", raw[key])


def divides(at: str, key: str, value: int, by: str, divisor: int) -> None:
    """Refuses a value that `divisor`, the value of the key `by`, does not divide."""
    if value % divisor:
        raise mismatch(f"{at}/{key}", f"a multiple of {by} = {divisor}", value)


def _value(value: Any, kind: Any, name: str, pointer: str) -> Any:
    if get_origin(kind) is tuple:
        inner, *rest = get_args(kind)
        length = None if rest == [...] else 1 + len(rest)
        if not isinstance(value, list) or length not in (None, len(value)):
            raise mismatch(pointer, _words(kind, name), value)
        return tuple(_value(one, inner, name, f"{pointer}/{at}") for at, one in enumerate(value))
    if get_origin(kind) is UnionType:
        return None if value is None else _value(value, get_args(kind)[0], name, pointer)
    if kind is float and type(value) in (int, float) and not math.isnan(value):
        return float(value)
    if type(value) is not kind or kind is float or (kind is int and value < _least(name)):
        raise mismatch(pointer, _words(kind, name), value)
    return value


def _least(name: str) -> int:
    return 0 if name.endswith(("_id", "_ids")) else 1


def _words(kind: Any, name: str) -> str:
    if get_origin(kind) is tuple:
        inner, *rest = get_args(kind)
        return "a list" if rest == [...] else f"a list of {1 + len(rest)} times {_words(inner, name)}"
    if get_origin(kind) is UnionType:
        return f"{_words(get_args(kind)[0], name)} or null"
    return {int: f"a whole number of at least {_least(name)}", float: "a number", str: "a text", bool: "true or false"}[
        kind
    ]
