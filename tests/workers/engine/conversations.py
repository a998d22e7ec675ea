"""Conversations as clients send them, for the tests of what is made of them."""

from typing import Any

from hypothesis import strategies as st


def turn(role: Any, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": " Of a place. ",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Where"},
                "unit": {"type": ["string", "null"], "enum": ["C", "F"], "default": "C"},
            },
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}

WORDS = st.sampled_from(
    ["", " ", "\n", "a", "Hi there ", "<think>", "</think>", "<think>\nso\n</think>\n", "é{{ x }}", "<tool_call>"]
)
TEXT = st.lists(WORDS, max_size=4).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.just(0.5) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["k", "l"]), inner, max_size=2),
    max_leaves=4,
)
CALLS = st.lists(
    st.builds(call, st.sampled_from(["f", "g"]), st.dictionaries(st.sampled_from(["x", "y"]), JSON)), max_size=2
)
PROPERTY = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["string", ["integer", "null"]]), "description": TEXT,
                  "enum": st.lists(TEXT, max_size=2), "default": JSON, "minimum": st.integers(0, 3)},
)  # fmt: skip
PARAMETERS = st.fixed_dictionaries(
    {}, optional={"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("pq"), PROPERTY, max_size=2),
                  "required": st.just(["p"]), "additionalProperties": st.booleans(), "$defs": JSON},
)  # fmt: skip
FUNCTION = st.fixed_dictionaries(
    {"name": st.just("f")}, optional={"description": TEXT, "parameters": PARAMETERS, "strict": st.booleans()}
)
TOOLS = st.lists(FUNCTION.map(lambda function: {"type": "function", "function": function}), max_size=2)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    turns = [turn("system", draw(TEXT))] if draw(st.booleans()) else []
    for role in draw(st.lists(st.sampled_from(["user", "assistant", "system"]), max_size=5)):
        if role != "assistant":
            turns.append(turn(role, draw(TEXT)))
            continue
        calls = draw(CALLS)
        thought = {"reasoning_content": draw(TEXT)} if draw(st.booleans()) else {}
        turns.append(turn(role, draw(st.none() | TEXT), **thought, **({"tool_calls": calls} if calls else {})))
        turns += [turn("tool", draw(TEXT)) for _ in calls]
    return turns or [turn("user", draw(TEXT))]
