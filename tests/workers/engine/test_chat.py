"""The prompt of a conversation: its tokens, its media, and what a message cannot do."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_jobs.errors import UsageError
from tests.workers.engine.conversations import TOOLS, call, conversations, turn
from workers.engine.chat import Expansion, Prompt, build_prompt
from workers.engine.messages import ConversationError, read_messages
from workers.engine.request import MediaKind, Pruning
from workers.engine.tekken import control_tokens, tokenizer_json
from workers.engine.template import ChatOptions, transcript
from workers.engine.tokenizer import Tokenizer
from workers.engine.tools import read_tools

TOKENIZER = Tokenizer(tokenizer_json())
OFF = ChatOptions(enable_thinking=False)

# --- tokens -----------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(conversations(), TOOLS, st.booleans())
def test_tokens_are_those_of_the_whole_text_at_once(messages: list[Any], tools: list[Any], thinking: bool) -> None:
    """Where no message writes the name of a control token, the text alone says everything."""
    from tokenizers import Tokenizer as Published

    messages, tools = harmless(messages), harmless(tools)
    options = ChatOptions(enable_thinking=thinking)
    read, offered = read_messages(messages), read_tools(tools)
    whole = Published.from_str(TOKENIZER.source).encode(transcript(read, offered, options), add_special_tokens=False)
    prompt = build_prompt(TOKENIZER, read, (), offered, options)
    assert list(prompt.ids) == whole.ids
    assert prompt.thinking == thinking


def harmless(value: Any) -> Any:
    return json.loads(re.sub(r"<(/?)(think|tool_call)>", r"(\1\2)", json.dumps(value)))


@pytest.mark.parametrize(
    "where", ["system", "user", "assistant", "tool", "reasoning", "argument", "key", "description", "property"]
)
def test_no_message_can_write_a_control_token(where: str) -> None:
    """The control tokens of a prompt are those of the same prompt with harmless text."""

    def controls(text: str) -> list[int]:
        said = {role: text if where == role else "x" for role in ("system", "user", "assistant", "tool")}
        turns = [
            turn("system", said["system"]),
            turn("user", said["user"]),
            turn("assistant", said["assistant"], reasoning_content=text if where == "reasoning" else "x",
                 tool_calls=[call("f", {text if where == "key" else "x": text if where == "argument" else "x"})]),
            turn("tool", said["tool"]),
        ]  # fmt: skip
        tools = [{
            "name": "f", "description": text if where == "description" else "x",
            "parameters": {"properties": {text if where == "property" else "x": {"type": "string"}}}, "x": [text],
        }]  # fmt: skip
        prompt = build_prompt(TOKENIZER, read_messages(turns), (), read_tools(tools), OFF)
        # An assistant's turn may hold tags of thoughts: clients send them back so.
        tags = (12, 13) if where in ("assistant", "reasoning") else ()
        return [id for id in prompt.ids if TOKENIZER.is_control(id) and id not in tags]

    for name in (*control_tokens()[:30], "<SPECIAL_999>"):
        assert controls(name) == controls(f"a\n{name}{name} b") == controls("x")


def test_thoughts_that_come_back_inside_content_are_thoughts() -> None:
    turns = [turn("user", "<think>"), turn("assistant", "<think>\nHm.\n</think>\nYes")]
    ids = build_prompt(TOKENIZER, read_messages(turns), options=OFF).ids
    assert ids.count(12) == 2  # the turn's and the one that the answer begins with
    assert ids.count(13) == 2


# --- media ------------------------------------------------------------------------------------------------------


def media(*kinds: str, text: str | None = "What is it?") -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": f"{kind}_url", f"{kind}_url": {"url": f"file:///{kind}"}} for kind in kinds]
    return [turn("user", [*([{"type": "text", "text": text}] if text is not None else []), *parts])]


def built(messages: list[dict[str, Any]], *expansions: Expansion) -> Prompt:
    return build_prompt(TOKENIZER, read_messages(messages), expansions, options=OFF)


def shown(prompt: Prompt) -> str:
    """The user's turn as text; runs of placeholders as their number."""
    text = TOKENIZER.decode(prompt.ids).split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
    return re.sub(r"(<image>|<so_embedding>)+", lambda run: f"[{run[0].count('<')}]", text)


def test_an_image_stands_in_front_of_the_text() -> None:
    prompt = built(media("image"), Expansion((5,)))
    assert shown(prompt) == "<img>[5]</img>\nWhat is it?"
    (slot,) = prompt.slots
    assert (slot.length, slot.kind, slot.index, slot.first_row) == (5, MediaKind.IMAGE, 0, 0)
    assert prompt.ids[slot.position - 1 : slot.position + 6] == (21, *[18] * 5, 22)


def test_several_media_stand_a_line_each_in_their_order() -> None:
    prompt = built([*media("image", "audio"), turn("assistant", "So."), *media("image", text=None)],
                   Expansion((2,)), Expansion((3,)), Expansion((4,)))  # fmt: skip
    assert shown(prompt) == "<img>[2]</img>\n<so_start>[3]<so_end>\nWhat is it?"
    assert [(slot.kind, slot.index, slot.length) for slot in prompt.slots] == [
        (MediaKind.IMAGE, 0, 2), (MediaKind.SOUND, 1, 3), (MediaKind.IMAGE, 2, 4)]  # fmt: skip
    assert TOKENIZER.decode(prompt.ids).endswith(
        "user\n<img><image><image><image><image></img><|im_end|>\n<|im_start|>assistant\n<think></think>"
    )


LABELS = ("Frame 1 sampled at 0.00 seconds and frame 2 sampled at 0.50 seconds: ", "Frame 3 sampled at 1.00 seconds: ")


def test_a_video_has_a_run_for_each_tubelet_and_its_sound_behind() -> None:
    prompt = built(media("video"), Expansion((4, 2), LABELS, sound=3))
    assert shown(prompt) == (f"{LABELS[0]}<img>[4]</img>\n{LABELS[1]}<img>[2]</img><so_start>[3]<so_end>\nWhat is it?")
    assert [(slot.kind, slot.index, slot.length, slot.first_row) for slot in prompt.slots] == [
        (MediaKind.VIDEO, 0, 4, 0), (MediaKind.VIDEO, 0, 2, 4), (MediaKind.SOUND, 0, 3, 0)]  # fmt: skip


@pytest.mark.parametrize("counts", [(4, 2, 0), (6, 0, 0), (0, 3, 3)])
def test_the_rows_of_a_video_can_be_shared_out_anew(counts: tuple[int, ...]) -> None:
    labels = (*LABELS, "Frame 5: ")
    prompt = built(media("image", "video"), Expansion((2,)), Expansion((2, 2, 2), labels))
    start, heads = prompt.tubelet_heads(1)
    pruning = Pruning(0.5, start, heads, (22,))
    moved = pruning.layout(counts, 18)
    anew = built(media("image", "video"), Expansion((2,)), Expansion(counts, labels))
    assert (*prompt.ids[:start], *moved, *prompt.ids[start + len(moved) :]) == anew.ids


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["image", "video", "audio"]), max_size=4), st.data())
def test_slots_are_where_the_placeholders_are(kinds: list[str], data: st.DataObject) -> None:
    expansions: list[Expansion] = []
    for kind in kinds:
        counts = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3).filter(any))
        labels = tuple(f"Frame {at}: " for at in range(len(counts)))
        video = Expansion(tuple(counts), labels, data.draw(st.integers(0, 2)))
        expansions.append(video if kind == "video" else Expansion((sum(counts),)))
    prompt = built(media(*kinds, text="<image> <so_embedding>"), *expansions)
    places = [at for at, id in enumerate(prompt.ids) if id in (18, 27)]
    assert places == [at for slot in prompt.slots for at in range(slot.position, slot.position + slot.length)]
    for index, (kind, rows) in enumerate(zip(kinds, expansions, strict=True)):
        named = [slot for slot in prompt.slots if slot.index == index and (slot.kind != "sound" or kind == "audio")]
        assert [slot.first_row for slot in named] == [sum(rows.counts[:nth]) for nth in range(len(named))]
        assert tuple(slot.length for slot in named) == rows.counts


@pytest.mark.parametrize(
    ("kind", "expansion"),
    [
        ("image", Expansion(())), ("image", Expansion((0,))), ("image", Expansion((2, 2))),
        ("image", Expansion((2,), ("a",))), ("image", Expansion((2,), sound=1)), ("audio", Expansion((-1,))),
        ("video", Expansion((2, 2), ("a",))), ("video", Expansion((0, 0), ("a", "b"))),
        ("video", Expansion((3, -1), ("a", "b"))), ("video", Expansion((3,), ("a",), sound=-1)),
    ],
)  # fmt: skip
def test_sizes_that_no_medium_has_are_refused(kind: str, expansion: Expansion) -> None:
    with pytest.raises(ConversationError, match="medium 0: expected "):
        built(media(kind), expansion)


def test_each_medium_needs_its_size() -> None:
    with pytest.raises(ConversationError, match="expected the rows of 2 media, got those of 1"):
        built(media("image", "image"), Expansion((1,)))


def test_text_that_utf8_cannot_write_is_refused() -> None:
    with pytest.raises(UsageError, match="lone surrogate"):
        built([turn("user", "\ud800")])
