"""The chat format: turn by turn, and against the published template where there is one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workers.engine.conversations import TOOLS, WEATHER, call, conversations, turn
from workers.engine.checkpoint import configs
from workers.engine.messages import ConversationError, read_messages
from workers.engine.template import ChatOptions, transcript
from workers.engine.tools import read_tools


def rendered(messages: list[dict[str, Any]], tools: Any = None, **options: Any) -> str:
    return transcript(read_messages(messages), read_tools(tools), ChatOptions.read(options))


HEAD = "<|im_start|>system\n<|im_end|>\n"
HI = [turn("user", "Hi")]
THOUGHT = turn("assistant", "It is 2.", reasoning_content="One and one.")


@pytest.mark.parametrize(
    ("messages", "options", "text"),
    [
        pytest.param(HI, {}, f"{HEAD}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n", id="thinking"),
        pytest.param(
            [turn("system", "Be brief."), *HI],
            {"enable_thinking": False},
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n<think></think>",
            id="no-thinking",
        ),
        pytest.param(
            HI,
            {"reasoning_budget": 512},
            f"{HEAD}<|im_start|>user\nHi\n\n{{thinking token budget: 512}}<|im_end|>\n<|im_start|>assistant\n<think>\n",
            id="budget",
        ),
        pytest.param(
            [*HI, THOUGHT, turn("user", "Sure?")],
            {},
            f"{HEAD}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think></think>\nIt is 2.<|im_end|>\n"
            "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n<think>\n",
            id="old-thoughts-are-left-out",
        ),
        pytest.param(
            [*HI, THOUGHT, turn("user", "Sure?")],
            {"truncate_history_thinking": False},
            f"{HEAD}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\nOne and one.\n</think>\nIt is 2."
            "<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n<think>\n",
            id="old-thoughts-stay",
        ),
        pytest.param(
            [*HI, turn("assistant", ""), turn("user", "Hello?")],
            {},
            f"{HEAD}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think></think><|im_end|>\n"
            "<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n<think>\n",
            id="an-empty-turn",
        ),
        pytest.param(
            [
                *HI,
                turn("assistant", None, tool_calls=[call("f", '{"a": 1, "b": {"c": ["é"]}, "d": true}')]),
                turn("tool", "one"),
                turn("tool", [{"type": "text", "text": "two"}]),
            ],
            {},
            f"{HEAD}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think></think>\n<tool_call>\n<function=f>\n"
            "<parameter=a>\n1\n</parameter>\n<parameter=b>\n"
            '{"c": ["é"]}\n</parameter>\n<parameter=d>\nTrue\n</parameter>\n</function>\n</tool_call>\n<|im_end|>\n'
            "<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>\n<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n",
            id="calls-and-results",
        ),
        pytest.param(
            [
                *HI,
                turn("assistant", " a ", reasoning_content="Hm.", tool_calls=[call("f", {})]),
                turn("tool", ""),
                turn("user", "So?"),
            ],
            {"enable_thinking": False},
            f"{HEAD}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think></think>a\n<tool_call>\n<function=f>\n"
            "</function>\n</tool_call>\n<|im_end|>\n<|im_start|>user\n<tool_response>\n\n</tool_response>\n<|im_end|>\n"
            "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n<think></think>",
            id="an-old-call",
        ),
    ],
)  # fmt: skip
def test_turns_are_written_as_the_family_writes_them(
    messages: list[dict[str, Any]], options: dict[str, Any], text: str
) -> None:
    assert rendered(messages, **options) == text


def test_tools_stand_in_the_system_turn() -> None:
    text = rendered([turn("system", "S"), *HI], [WEATHER])
    assert text.startswith(
        "<|im_start|>system\nS\n\n# Tools\n\nYou have access to the following functions:\n\n<tools>\n<function>\n"
        "<name>weather</name>\n<description>Of a place.</description>\n<parameters>\n<parameter>\n<name>place</name>\n"
        "<type>string</type>\n<description>Where</description>\n</parameter>\n<parameter>\n<name>unit</name>\n"
        "<type>['string', 'null']</type>\n"
        '<enum>["C", "F"]</enum>\n<default>C</default>\n</parameter>\n'
        '<additionalProperties>False</additionalProperties>\n<required>["place"]</required>\n</parameters>\n'
        "<strict>True</strict>\n</function>\n</tools>\n\nIf you choose to call a function ONLY reply in the following "
    )
    assert "the user about function calls\n</IMPORTANT><|im_end|>\n<|im_start|>user\nHi<|im_end|>\n" in text
    assert rendered(HI, [WEATHER]).startswith("<|im_start|>system\n# Tools\n\n")


def written_template() -> str:
    """Of the directories that are written here."""
    return configs.chat_template()


def published_template() -> str:
    """OMNI_CHAT_TEMPLATE names a file; else the checkpoint at OMNI_MODEL may carry one."""
    path = Path(os.environ.get("OMNI_CHAT_TEMPLATE") or Path(os.environ.get("OMNI_MODEL", "-")) / "chat_template.jinja")
    if not path.is_file():
        pytest.skip("neither OMNI_CHAT_TEMPLATE nor OMNI_MODEL has a chat_template.jinja")
    return path.read_text()


@pytest.mark.parametrize("template", [written_template, published_template])
@settings(max_examples=300, deadline=None)
@given(
    conversations(), TOOLS, st.booleans(), st.none() | st.integers(0, 9), st.booleans(),
)  # fmt: skip
def test_text_is_that_of_the_published_template(
    template: Callable[[], str],
    messages: list[dict[str, Any]],
    tools: list[Any],
    thinking: bool,
    budget: int | None,
    truncate: bool,
) -> None:
    options = {"enable_thinking": thinking, "reasoning_budget": budget, "truncate_history_thinking": truncate}
    assert rendered(messages, tools, **options) == by_jinja(template(), messages, tools, options)


def by_jinja(template: str, messages: list[dict[str, Any]], tools: list[Any], options: dict[str, Any]) -> str:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    return utils._compile_jinja_template(template).render(
        messages=messages, tools=tools, add_generation_prompt=True, chat_template_kwargs=options, **options
    )


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ([], ""), ({"enable_thinking": 1}, "/enable_thinking"), ({"enable_thinking": None}, "/enable_thinking"),
        ({"reasoning_budget": -1}, "/reasoning_budget"), ({"reasoning_budget": True}, "/reasoning_budget"),
        ({"reasoning_budget": 0.5}, "/reasoning_budget"), ({"think": True}, "/think"),
        ({"truncate_history_thinking": "no"}, "/truncate_history_thinking"),
    ],
)  # fmt: skip
def test_what_is_no_option_is_refused_with_the_place(options: Any, pointer: str) -> None:
    with pytest.raises(ConversationError, match=r"expected .*, got ") as caught:
        ChatOptions.read(options)
    assert caught.value.pointer == f"/chat_template_kwargs{pointer}"
