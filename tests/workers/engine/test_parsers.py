"""Thoughts, content and calls out of an answer, whole and as it comes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.answer import Answer, AnswerParser, read_answer
from workers.engine.messages import Call, read_messages
from workers.engine.tekken import tokenizer_json
from workers.engine.template import transcript
from workers.engine.tokenizer import END_THINK, END_TOOL_CALL, THINK, TOOL_CALL, Control, Detokenizer, Tokenizer
from workers.engine.tool_calls import typed
from workers.engine.tools import read_tools

TOKENIZER = Tokenizer(tokenizer_json())
TOOLS = read_tools(
    [
        {
            "type": "function",
            "function": {
                "name": "f",
                "parameters": {
                    "type": "object",
                    "properties": {"n": {"type": "integer"}, "s": {"type": "string"}, "o": {"type": "object"}},
                },
            },
        }
    ]
)
ODD = Control("<SPECIAL_20>")
BODY = "\n<function=f>\n<parameter=n>\n4\n</parameter>\n</function>\n"
F4 = Call("f", {"n": 4})


# --- thoughts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thinking", "pieces", "answer"),
    [
        pytest.param(True, ["So", ".\n", END_THINK, "\n\n", "Yes", ".\n"], Answer("So.", "Yes.\n"), id="both"),
        pytest.param(True, ["\nSo ", "on\n\n"], Answer("So on", unfinished=True), id="unfinished"),
        pytest.param(True, [" ", "\n a", " ", END_THINK, " ", "\n b"], Answer("a", "b"), id="blanks"),
        pytest.param(True, [END_THINK, "Yes"], Answer("", "Yes"), id="no-thought"),
        pytest.param(True, [], Answer(unfinished=True), id="nothing"),
        pytest.param(True, ["a </think> b", END_THINK, "c"], Answer("a </think> b", "c"), id="letters-end-nothing"),
        pytest.param(False, ["\n", "Yes", " </think>"], Answer("", "\nYes </think>"), id="off"),
        pytest.param(False, ["Yes", END_THINK, " no"], Answer("", "Yes no"), id="off-and-a-stray-end"),
        pytest.param(False, ["a", THINK, "b", END_THINK, " c"], Answer("b", "ac"), id="off-and-a-thought"),
        pytest.param(True, ["a", ODD, THINK, "b", END_THINK, ODD, "c", ODD], Answer("ab", "c"), id="odd-tokens"),
        pytest.param(True, ["x", TOOL_CALL, BODY, END_TOOL_CALL], Answer("x" + BODY[:-1], unfinished=True), id="call"),
    ],
)
def test_thoughts_are_parted_from_the_answer(thinking: bool, pieces: list[str], answer: Answer) -> None:
    assert read_answer(pieces, thinking=thinking) == answer


def test_the_end_of_a_thought_is_a_token() -> None:
    ids = [*TOKENIZER.encode("I write </think>\n"), 13, *TOKENIZER.encode("\nDone <think>"), 11]
    assert read_answer(pieces_of(ids), thinking=True) == Answer("I write </think>", "Done <think>")


# --- calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "content", "calls"),
    [
        pytest.param(["Let me.\n", TOOL_CALL, BODY, END_TOOL_CALL, "\n"], "Let me.", (F4,), id="content-first"),
        pytest.param([TOOL_CALL, BODY, END_TOOL_CALL, "\n", TOOL_CALL, BODY, END_TOOL_CALL], "", (F4, F4), id="two"),
        pytest.param([TOOL_CALL, BODY, END_TOOL_CALL, "\nand so ", ODD], "and so ", (F4,), id="content-behind"),
        pytest.param([TOOL_CALL, "<function=g></function>", END_TOOL_CALL], "", (Call("g", {}),), id="nobody-offered"),
        pytest.param(["Hi \n"], "Hi \n", (), id="no-call"),
        pytest.param(["<tool_call>", BODY, "</tool_call>"], f"<tool_call>{BODY}</tool_call>", (), id="letters"),
        pytest.param(["<tool_call>", BODY, END_TOOL_CALL], f"<tool_call>{BODY}", (), id="begun-in-letters"),
        pytest.param(["a\n", TOOL_CALL, "\nnonsense", END_TOOL_CALL, "\nb"],
                     "a\n<tool_call>\nnonsense</tool_call>\nb", (), id="malformed"),
        pytest.param(["a\n", TOOL_CALL, BODY], f"a\n<tool_call>{BODY}", (), id="unfinished"),
        pytest.param([TOOL_CALL, "x ", TOOL_CALL, BODY, END_TOOL_CALL], "<tool_call>x", (F4,), id="begun-twice"),
        pytest.param(["a", END_TOOL_CALL, "b"], "ab", (), id="a-stray-end"),
        pytest.param([TOOL_CALL, "\n<function=f>\n<parameter=n>\n4\n</function>\n", END_TOOL_CALL],
                     "<tool_call>\n<function=f>\n<parameter=n>\n4\n</function>\n</tool_call>", (), id="open-parameter"),
        pytest.param([TOOL_CALL, BODY + "so", END_TOOL_CALL], f"<tool_call>{BODY}so</tool_call>", (), id="text-behind"),
        pytest.param([TOOL_CALL, BODY.replace("</function>", ""), END_TOOL_CALL],
                     f"<tool_call>{BODY.replace('</function>', '')}</tool_call>", (), id="open-function"),
        pytest.param([TOOL_CALL, BODY + BODY, END_TOOL_CALL], f"<tool_call>{BODY + BODY}</tool_call>", (), id="twins"),
    ],
)  # fmt: skip
def test_calls_are_found_and_what_is_none_is_content(pieces: list[str], content: str, calls: tuple[Call, ...]) -> None:
    assert read_answer(pieces, thinking=False, tools=TOOLS) == Answer("", content, calls)


def test_a_call_inside_a_thought_is_thought() -> None:
    answer = read_answer(["So ", TOOL_CALL, BODY, END_TOOL_CALL, END_THINK, "No."], thinking=True, tools=TOOLS)
    assert answer == Answer(f"So {BODY}".rstrip(), "No.")


def test_without_tools_a_call_is_content() -> None:
    assert read_answer(["a", TOOL_CALL, BODY, END_TOOL_CALL], thinking=False) == Answer("", "a" + BODY)


@pytest.mark.parametrize(
    "value",
    ["", "two\n\nlines\n", " <b>é</b> ", "</parameter>", "a</parameter>\nb", "x</function>", "<parameter=n>\n1"],
)
def test_a_text_comes_back_as_it_was_written(value: str) -> None:
    body = f"\n<function=f>\n<parameter=s>\n{value}\n</parameter>\n<parameter=n>\n4\n</parameter>\n</function>\n"
    answer = read_answer([TOOL_CALL, body, END_TOOL_CALL], thinking=False, tools=TOOLS)
    assert answer.calls == (Call("f", {"s": value, "n": 4}),)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "integer"}, " 42 ", 42),
        ({"type": "integer"}, "4.5", "4.5"),
        ({"type": "integer"}, "9" * 5000, "9" * 5000),
        ({"type": "number"}, "4.5", 4.5),
        ({"type": "number"}, "-4", -4),
        ({"type": "number"}, "1e999", "1e999"),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "no", "no"),
        ({"type": "string"}, "42", "42"),
        ({"type": "string"}, "null", "null"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "integer"]}, "42", 42),
        ({"type": "object"}, '{"a": [1]}', {"a": [1]}),
        ({"type": "object"}, "[1]", "[1]"),
        ({"type": "object"}, "{broken", "{broken"),
        ({"type": "array"}, "[" * 100_000, "[" * 100_000),
        ({"type": "array"}, "[1, 2]", [1, 2]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "7", 7),
        ({"enum": [1, "one"]}, "1", 1),
        ({"enum": [1, "one"]}, "one", "one"),
        ({"const": True}, "true", True),
        ({"$ref": "#/$defs/x"}, '{"a": 1}', {"a": 1}),
        ({"$ref": "#/$defs/x"}, "7", "7"),
        (None, "42", "42"),
        ({}, "42", "42"),
        ({"type": 5, "anyOf": 3, "enum": "x"}, "42", "42"),
        (True, "42", "42"),
    ],
)
def test_values_have_the_type_of_the_schema(schema: Any, text: str, value: Any) -> None:
    assert typed(text, schema) == value
    assert type(typed(text, schema)) is type(value)


NAMES = st.sampled_from(["n", "s", "o", "other"])
VALUES = {
    "n": st.integers(-(10**20), 10**20),
    "s": st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    "o": st.dictionaries(st.sampled_from("kl"), st.integers() | st.none() | st.text("é<>/", max_size=3), max_size=2),
    "other": st.sampled_from(["plain", "4", ""]),
}
ARGUMENTS = st.lists(NAMES, max_size=4, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: VALUES[name] for name in names})
)


@settings(max_examples=100, deadline=None)
@given(ARGUMENTS, st.sampled_from(["", "First this."]))
def test_what_the_template_writes_of_a_turn_is_read_back(arguments: dict[str, Any], content: str) -> None:
    call = {"function": {"name": "f", "arguments": json.dumps(arguments)}}
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content, "tool_calls": [call],
              "reasoning_content": "Hm."}]  # fmt: skip
    text = transcript(read_messages(turns))
    said = text.split("<|im_start|>assistant\n<think>\n")[1].split("<|im_end|>")[0]
    answer = read_answer(pieces_of(TOKENIZER.encode_prompt(said)), thinking=True, tools=TOOLS)
    assert answer == Answer("Hm.", content, (Call("f", arguments),))


# --- as it comes ------------------------------------------------------------------------------------------------

PIECES = st.lists(
    st.sampled_from([
        THINK, END_THINK, TOOL_CALL, END_TOOL_CALL, ODD, BODY, "\n<function=f>\n", "<parameter=s>\n", "</parameter>\n",
        "</function>\n", " ", "\n", "a", "word ", "é",
    ]) | st.text("<>/ab\n =", min_size=1, max_size=6),
    max_size=14,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(PIECES, st.booleans(), st.booleans(), st.data())
def test_pieces_give_the_same_however_they_are_cut(
    pieces: list[str], thinking: bool, tools: bool, data: st.DataObject
) -> None:
    offered = TOOLS if tools else []
    whole = read_answer(pieces, thinking=thinking, tools=offered)
    letters: list[str] = []
    for piece in pieces:
        letters += [piece] if isinstance(piece, Control) else list(piece)
    parser = AnswerParser(thinking=thinking, tools=offered)
    answer = Answer(unfinished=thinking)
    while letters:
        size = data.draw(st.integers(1, len(letters)))
        answer += parser.push(letters[:size])
        letters = letters[size:]
    assert answer + parser.finish() == whole
    shown = whole.reasoning + whole.content
    assert "<think>" not in shown or "<think>" in "".join(piece for piece in pieces if not isinstance(piece, Control))
    assert len(shown) <= len("".join(pieces))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1279), max_size=60), st.booleans())
def test_noise_is_read_without_an_exception(ids: list[int], thinking: bool) -> None:
    answer = read_answer(pieces_of(ids), thinking=thinking, tools=TOOLS)
    assert answer.unfinished == (
        thinking if not {12, 13} & set(ids) else [id for id in ids if id in (12, 13)][-1] == 12
    )


def pieces_of(ids: list[int]) -> list[str]:
    stream = Detokenizer(TOKENIZER)
    return [piece for id in ids for piece in stream.push(id)] + stream.finish()
