"""What is a conversation, and what is none."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_jobs.errors import UsageError
from tests.workers.engine.conversations import WEATHER, call, turn
from workers.engine.messages import ConversationError, read_messages
from workers.engine.request import MediaKind
from workers.engine.template import ChatOptions
from workers.engine.tools import read_tools

HI = [turn("user", "Hi")]


@pytest.mark.parametrize(
    ("messages", "pointer"),
    [
        (None, ""), ([], ""), ("Hi", ""), ([HI[0]] * 4097, ""), (["Hi"], "/0"), ([{}], "/0/role"),
        ([turn("robot", "Hi")], "/0/role"), ([turn(["user"], "Hi")], "/0/role"),  # pyright: ignore[reportArgumentType]
        ([turn("user", None)], "/0/content"), ([turn("user", 5)], "/0/content"), ([{"role": "user"}], "/0/content"),
        ([turn("user", ["Hi"])], "/0/content/0/type"),
        ([turn("user", [{"type": "text"}])], "/0/content/0/text"),
        ([turn("user", [{"type": "hologram"}])], "/0/content/0/type"),
        ([turn("user", [{"type": ["text"]}])], "/0/content/0/type"),
        ([turn("user", [{"type": "image_url", "image_url": {}}])], "/0/content/0/image_url/url"),
        ([turn("user", [{"type": "audio_url", "audio_url": ""}])], "/0/content/0/audio_url/url"),
        ([turn("user", [{"type": "input_audio", "input_audio": {"data": "AAAA"}}])], "/0/content/0/input_audio"),
        ([turn("system", [{"type": "image_url", "image_url": "file:///a"}])], "/0/content/0/type"),
        ([turn("tool", "4")], "/0/role"), ([*HI, turn("tool", "4")], "/1/role"),
        ([turn("assistant", "", reasoning_content=5)], "/0/reasoning_content"),
        ([turn("assistant", "", tool_calls={})], "/0/tool_calls"),
        ([turn("assistant", "", tool_calls=[{}])], "/0/tool_calls/0/function/name"),
        ([turn("assistant", "", tool_calls=["f"])], "/0/tool_calls/0/function/name"),
        ([turn("assistant", "", tool_calls=[call("a>b", {})])], "/0/tool_calls/0/function/name"),
        ([turn("assistant", "", tool_calls=[call("f", "{broken")])], "/0/tool_calls/0/function/arguments"),
        ([turn("assistant", "", tool_calls=[call("f", "[1]")])], "/0/tool_calls/0/function/arguments"),
        ([turn("assistant", "", tool_calls=[call("f", "[" * 100_000)])], "/0/tool_calls/0/function/arguments"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_refused_with_the_place(messages: Any, pointer: str) -> None:
    with pytest.raises(ConversationError, match=r"expected .*, got ") as caught:
        read_messages(messages)
    assert caught.value.pointer == f"/messages{pointer}"
    assert isinstance(caught.value, UsageError)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("tools", "pointer"),
    [
        ({}, "/tools"), ([WEATHER] * 513, "/tools"), (["f"], "/tools/0/function/name"),
        ([{}], "/tools/0/function/name"),
        ([{"name": "a b"}], "/tools/0/function/name"), ([{"name": "f" * 129}], "/tools/0/function/name"),
        ([WEATHER, {"name": "f", "description": 5}], "/tools/1/function/description"),
        ([{"name": "f", "parameters": []}], "/tools/0/function/parameters"),
    ],
)  # fmt: skip
def test_what_is_no_tool_is_refused_with_the_place(tools: Any, pointer: str) -> None:
    with pytest.raises(ConversationError, match=r"expected .*, got ") as caught:
        read_tools(tools)
    assert caught.value.pointer == pointer


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["user", "tool", "text"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "image_url", "url", "tool_calls", "function", "name",
                             "arguments", "parameters", "reasoning_content"]), inner, max_size=4),
        max_leaves=12,
    )
)  # fmt: skip
def test_nothing_else_is_raised(raw: Any) -> None:
    for read in (read_messages, read_tools, ChatOptions.read, lambda raw: read_messages([raw])):
        try:
            read(raw)
        except ConversationError as error:
            assert str(error).startswith(str(error.pointer))


def test_sound_may_come_as_the_other_api_sends_it() -> None:
    part = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    (medium,) = read_messages([turn("user", [part])])[0].media
    assert (medium.kind, medium.url) == (MediaKind.SOUND, "data:audio/wav;base64,UklGRg==")
