"""Finds the functions that an answer calls, in the syntax of qwen3_coder.

    <tool_call>
    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>
    </tool_call>

The outer tags are tokens, what is between them is text. A call is given once it is whole: what turns out not to be
one is content, and content cannot be taken back. Values come as text; the tool's JSON schema says what they are.

Source: spec 5.1, 5.2.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from workers.engine.messages import Call
from workers.engine.reasoning import Trimmed
from workers.engine.tokenizer import END_TOOL_CALL, TOOL_CALL, Control
from workers.engine.tools import Tool

_HEAD = re.compile(r"\s*<function=([^>\n]+)>\s*")
# A value may hold the text "</parameter>": it ends where another parameter, or the end of the function, follows.
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*(?=<parameter=|</function>)", re.DOTALL)
_TAIL = re.compile(r"</function>\s*")


class ToolCalls:
    """Pieces of an answer in, content and calls out."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._content = Trimmed(leading=False)
        self._inside: list[str] | None = None  # pieces of a call that is not whole

    def push(self, piece: str) -> tuple[str, list[Call]]:
        """The content and the calls that this piece completes."""
        control = piece if isinstance(piece, Control) else None
        if control == TOOL_CALL:
            before = self._given_up()
            self._inside = [piece]
            return before, []
        if self._inside is None:
            return ("" if control else self._content.push(piece)), []
        self._inside.append(piece)
        if control != END_TOOL_CALL:
            return "", []
        call = parse_call("".join(self._inside[1:-1]), self._tools)
        if call is None:
            return self._given_up(), []
        self._inside = None
        self._content = Trimmed(leading=True)  # line breaks around calls are no content
        return "", [call]

    def finish(self) -> str:
        """The content that was held back."""
        return self._given_up() + self._content.rest()

    def _given_up(self) -> str:
        """A call that never became one, as content."""
        text, self._inside = "".join(self._inside or ()), None
        return self._content.push(text) if text else ""


def parse_call(text: str, tools: Mapping[str, Tool]) -> Call | None:
    """The call between the outer tags, or None where it is malformed. A function that nobody offered is a call too."""
    head = _HEAD.match(text)
    if head is None:
        return None
    tool = tools.get(head[1])
    properties = tool.properties if tool else {}
    arguments: dict[str, Any] = {}
    at = head.end()
    while parameter := _PARAMETER.match(text, at):
        arguments[parameter[1]] = typed(parameter[2], properties.get(parameter[1]))
        at = parameter.end()
    return Call(head[1], arguments) if _TAIL.fullmatch(text, at) else None


def typed(text: str, schema: Any) -> Any:
    """A value as the first of its schema's types that it can be read as; else the text itself."""
    kinds = set(_kinds(schema))
    for kind, read in _READERS.items():
        if kind in kinds:
            value = read(text.strip())
            if value is not _UNREADABLE:
                return value
    return text


def _kinds(schema: Any, depth: int = 8) -> Iterator[str]:
    """Names of the types that a schema admits, as far as it says so on its face."""
    if not isinstance(schema, Mapping) or not depth:
        return
    kinds = schema.get("type")
    yield from [kinds] if isinstance(kinds, str) else (kind for kind in _listed(kinds) if isinstance(kind, str))
    for key in ("anyOf", "oneOf", "allOf"):
        for inner in _listed(schema.get(key)):
            yield from _kinds(inner, depth - 1)
    values = [*_listed(schema.get("enum")), *([schema["const"]] if "const" in schema else ())]
    yield from (_KIND_OF.get(type(value), "string") for value in values)
    # What a reference means is not looked up: almost always a model's class, and that is an object.
    yield from ("object", "array") if "$ref" in schema else ()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


_UNREADABLE = object()
_KIND_OF = {type(None): "null", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}


def _null(text: str) -> Any:
    return None if text in ("null", "None") else _UNREADABLE


def _boolean(text: str) -> Any:
    return {"true": True, "false": False}.get(text.lower(), _UNREADABLE)


def _integer(text: str) -> Any:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,400}", text) else _UNREADABLE


def _number(text: str) -> Any:
    if (whole := _integer(text)) is not _UNREADABLE:
        return whole
    try:
        value = float(text)
    except ValueError:
        return _UNREADABLE
    return value if math.isfinite(value) and "_" not in text else _UNREADABLE


def _json(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return _UNREADABLE
        return value if isinstance(value, kind) else _UNREADABLE

    return read


# In the order of trying; a text is a text when it is nothing else.
_READERS = {
    "null": _null, "boolean": _boolean, "integer": _integer, "number": _number, "object": _json(dict),
    "array": _json(list),
}  # fmt: skip
