"""The tools block: what the system turn says of functions that may be called, and how.

Source: spec 5.2. The published template writes keys it does not know as elements of their own, and so does this.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.engine.messages import ConversationError, is_name, wrong
from workers.engine.tokenizer import END_TOOL_CALL, TOOL_CALL, cut, naming

MAX_TOOLS = 512

_HEAD = "# Tools\n\nYou have access to the following functions:\n\n<tools>"
_HOW = (
    "\n</tools>\n\n"
    "If you choose to call a function ONLY reply in the following format with NO suffix:\n\n"
    "<tool_call>\n<function=example_function_name>\n"
    "<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n"
    "</parameter>\n</function>\n</tool_call>\n\n"
    "<IMPORTANT>\nReminder:\n"
    "- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested "
    "within <tool_call></tool_call> XML tags\n"
    "- Required parameters MUST be specified\n"
    "- You may provide optional reasoning for your function call in natural language BEFORE the function call, "
    "but NOT after\n"
    "- If there is no function call available, answer the question like normal with your current knowledge and do "
    "not tell the user about function calls\n</IMPORTANT>"
)


@dataclass(frozen=True, slots=True)
class Tool:
    """
    Attributes:
        schema: the function as the client described it, `parameters` included.
    """

    name: str
    schema: Mapping[str, Any]

    @property
    def properties(self) -> Mapping[str, Any]:
        """JSON schema of each parameter."""
        parameters = self.schema.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        return properties if isinstance(properties, Mapping) else {}


def read_tools(raw: Any) -> list[Tool]:
    """The `tools` of a chat request.

    Raises:
        ConversationError: no list, more than `MAX_TOOLS`, or a tool that is no named function.
    """
    if raw is None:
        return []
    if not isinstance(raw, list) or len(raw) > MAX_TOOLS:
        raise wrong("/tools", f"a list of at most {MAX_TOOLS} tools", raw)
    return [_tool(tool, f"/tools/{at}") for at, tool in enumerate(raw)]


def tools_block(tools: Sequence[Tool]) -> list[str]:
    """The block as pieces of text and control tokens."""
    return [_HEAD, *(_function(tool.schema) for tool in tools), *cut(_HOW, naming([TOOL_CALL, END_TOOL_CALL]))]


def as_json(value: Any) -> str:
    """JSON as the template writes it.

    Raises:
        ConversationError: it nests too deep.
    """
    try:
        return json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError, TypeError) as error:
        raise ConversationError(f"expected JSON, got what cannot be written: {error}") from error


def as_text(value: Any) -> str:
    """A value inside an element: lists and objects as JSON, the rest as Python prints it."""
    return as_json(value) if isinstance(value, Mapping | list | tuple) else str(value)


def _tool(raw: Any, at: str) -> Tool:
    function = raw.get("function", raw) if isinstance(raw, dict) else None
    if not isinstance(function, dict) or not is_name(function.get("name")):
        raise wrong(f"{at}/function/name", "the name of a function", function and function.get("name"))
    for key, kind, words in (("description", str, "a text"), ("parameters", dict, "a JSON schema")):
        if function.get(key) is not None and not isinstance(function[key], kind):
            raise wrong(f"{at}/function/{key}", words, function[key])
    return Tool(function["name"], {key: value for key, value in function.items() if value is not None})


def _function(schema: Mapping[str, Any]) -> str:
    parameters = schema.get("parameters", {})
    lines = ["", "<function>", _element("name", schema["name"]), *_described(schema), "<parameters>"]
    properties = parameters.get("properties")
    for name, field in (properties if isinstance(properties, Mapping) else {}).items():
        lines += ["<parameter>", _element("name", name), *_field(field), "</parameter>"]
    lines += _extra(parameters, "type", "properties", "required")
    if "required" in parameters:
        lines.append(_element("required", as_json(parameters["required"])))
    lines += ["</parameters>", *_extra(schema, "type", "name", "description", "parameters"), "</function>"]
    return "\n".join(lines)


def _field(field: Any) -> list[str]:
    if not isinstance(field, Mapping):
        return []
    lines = [_element("type", str(field["type"]))] if "type" in field else []
    lines += _described(field)
    if "enum" in field:
        lines.append(_element("enum", as_json(field["enum"])))
    return lines + _extra(field, "name", "type", "description", "enum")


def _described(schema: Mapping[str, Any]) -> list[str]:
    return [_element("description", str(schema["description"]).strip())] if "description" in schema else []


def _extra(schema: Mapping[str, Any], *handled: str) -> list[str]:
    return [_element(key, as_text(value)) for key, value in schema.items() if key not in handled]


def _element(name: str, text: str) -> str:
    return f"<{name}>{text}</{name}>"
