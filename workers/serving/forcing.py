"""A call that has to be made: the answer is held to JSON of the call, and the call is read out of it.

The model's own syntax of calls is no JSON, and only JSON can be guaranteed; so what is forced is

    {"name": NAME, "arguments": {...}}
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from workers.engine.messages import Call, wrong
from workers.engine.tools import Tool

AT = "/tool_choice"


def forced_schema(tools: Sequence[Tool], choice: Any) -> dict[str, Any]:
    """The schema of a call.

    Args:
        choice: `required`, or `{"type": "function", "function": {"name": NAME}}`.

    Raises:
        ConversationError: another choice, or a tool that nobody offered.
    """
    if choice == "required":
        chosen = list(tools)
        if not chosen:
            raise wrong(AT, "tools to choose from", choice)
    else:
        function = choice.get("function") if isinstance(choice, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        chosen = [tool for tool in tools if tool.name == name]
        if not chosen:
            raise wrong(AT, f"auto, none, required or one of {[tool.name for tool in tools]}", name or choice)
    schemas = [_schema(tool) for tool in chosen]
    # References are looked up from the top of a schema.
    definitions = {key: value for tool in chosen for key, value in _definitions(tool).items()}
    top = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {**top, "$defs": definitions} if definitions else top


def read_forced(text: str) -> Call | None:
    """The call, or None where the answer was cut off before its end."""
    try:
        call = json.loads(text)
        return Call(call["name"], call["arguments"])
    except (ValueError, KeyError, TypeError):
        return None


def _schema(tool: Tool) -> dict[str, Any]:
    parameters = tool.schema.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool.name},
            "arguments": {key: value for key, value in parameters.items() if key != "$defs"},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _definitions(tool: Tool) -> Mapping[str, Any]:
    parameters = tool.schema.get("parameters")
    found = parameters.get("$defs") if isinstance(parameters, Mapping) else None
    return found if isinstance(found, Mapping) else {}
