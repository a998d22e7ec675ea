"""What the chat template says: turns as pieces of text, control tokens and the places of media.

The format is written out here; a checkpoint's chat_template.jinja is not executed: it is a program from outside that
makes one string, in which the text of users and the control tokens of the template can no longer be told apart. Here
they never meet: only what the template itself says names control tokens, and what a message says is text. (Assistant
turns may carry `<think>` tags: clients without reasoning_content send thoughts back so, and the template reads them.)

Source: spec 5.1 to 5.3, the template of the model's family; where prose and template differ, the template.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from workers.engine.messages import Call, Message, Role, wrong
from workers.engine.request import MediaKind
from workers.engine.tokenizer import END_THINK, END_TOOL_CALL, IM_END, IM_START, THINK, TOOL_CALL, Control, cut, naming
from workers.engine.tools import Tool, as_text, tools_block

TOOL_RESPONSE, END_TOOL_RESPONSE = Control("<tool_response>"), Control("</tool_response>")
NO_THOUGHT = f"{THINK}{END_THINK}"
_THINK_TAGS = naming([THINK, END_THINK])
_MARKS = {MediaKind.IMAGE: "<image>", MediaKind.VIDEO: "<video>", MediaKind.SOUND: "<so_embedding>"}


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """`chat_template_kwargs`.

    Attributes:
        enable_thinking: the answer begins with thoughts.
        reasoning_budget: tokens of thought that the last user message tells the model it has.
        truncate_history_thinking: thoughts of turns before the last user message are left out.
    """

    enable_thinking: bool = True
    reasoning_budget: int | None = None
    truncate_history_thinking: bool = True

    @classmethod
    def read(cls, raw: Any) -> "ChatOptions":
        """
        Raises:
            ConversationError: not an object of these names, or a value of another type.
        """
        at = "/chat_template_kwargs"
        if not isinstance(raw, dict):
            raise wrong(at, "an object", raw)
        for key, value in raw.items():
            if key not in cls.__slots__:
                raise wrong(f"{at}/{key}", f"one of {', '.join(cls.__slots__)}", key)
            if key == "reasoning_budget":
                if value is not None and (type(value) is not int or value < 0):
                    raise wrong(f"{at}/{key}", "a whole number of at least 0", value)
            elif not isinstance(value, bool):
                raise wrong(f"{at}/{key}", "true or false", value)
        return cls(**raw)


@dataclass(frozen=True, slots=True)
class Shown:
    """The place of a medium.

    Attributes:
        index: which medium of the conversation, in the order in which messages show them.
    """

    index: int
    kind: MediaKind


def script(messages: Sequence[Message], tools: Sequence[Tool], options: ChatOptions) -> Iterator[str | Shown]:
    """The whole prompt, up to where the assistant's next turn begins."""
    system, turns = "", list(messages)
    if turns and turns[0].role is Role.SYSTEM:
        system = turns.pop(0).text
    yield from (IM_START, "system\n", system)
    if tools:
        yield from ("\n\n" if system else "", *tools_block(tools))
    yield from (IM_END, "\n")
    asked = max((at for at, turn in enumerate(turns) if turn.role is Role.USER), default=-1)
    media = 0
    for at, turn in enumerate(turns):
        if turn.role is Role.ASSISTANT:
            yield from _assistant(turn, cut_short=options.truncate_history_thinking and at < asked)
        elif turn.role is Role.TOOL:
            follows, goes_on = (_is_tool(turns, near) for near in (at - 1, at + 1))
            yield from _tool_result(turn, opens=not follows, closes=not goes_on)
        else:
            yield from (IM_START, f"{turn.role}\n", *_shown(turn, media))
            if at == asked and options.reasoning_budget is not None:
                yield f"\n\n{{thinking token budget: {options.reasoning_budget}}}"
            yield from (IM_END, "\n")
        media += len(turn.media)
    yield from (IM_START, "assistant\n", THINK, "\n" if options.enable_thinking else END_THINK)


def transcript(messages: Sequence[Message], tools: Sequence[Tool] = (), options: ChatOptions = ChatOptions()) -> str:
    """The prompt as the one string of the published template; a medium is its mark."""
    parts = script(messages, tools, options)
    return "".join(part if isinstance(part, str) else _MARKS[part.kind] for part in parts)


def _shown(turn: Message, first: int) -> Iterator[str | Shown]:
    """Media in front, a line each, then the text."""
    for nth, medium in enumerate(turn.media):
        if nth:
            yield "\n"
        yield Shown(first + nth, medium.kind)
    if turn.media and turn.text:
        yield "\n"
    yield turn.text


def _assistant(turn: Message, *, cut_short: bool) -> Iterator[str]:
    body = _with_thought(turn)
    if turn.calls:
        body = (_answer_after_calls(body) if cut_short else body.strip()) + "\n"
    elif cut_short and THINK in body and END_THINK in body:
        body = (NO_THOUGHT + body.split(END_THINK)[-1]).strip()
    else:
        body = body.strip()
    yield from (IM_START, "assistant\n", *cut(body, _THINK_TAGS))
    for call in turn.calls:
        yield from _call(call)
    yield from (IM_END, "\n")


def _with_thought(turn: Message) -> str:
    if turn.reasoning.strip():
        return f"{THINK}\n{turn.reasoning}\n{END_THINK}\n{turn.text}"
    if THINK in turn.text or END_THINK in turn.text:
        return turn.text
    return NO_THOUGHT + turn.text


def _answer_after_calls(body: str) -> str:
    if END_THINK in body:
        body = body.split(END_THINK)[-1]
    elif THINK in body:  # opened and never closed
        body = body.split(THINK)[0]
    return NO_THOUGHT + body.strip()


def _call(call: Call) -> Iterator[str]:
    yield from (TOOL_CALL, f"\n<function={call.name}>\n")
    for name, value in call.arguments.items():
        yield f"<parameter={name}>\n{as_text(value)}\n</parameter>\n"
    yield from ("</function>\n", END_TOOL_CALL, "\n")


def _tool_result(turn: Message, *, opens: bool, closes: bool) -> Iterator[str]:
    """Results in a row share one turn of the user."""
    if opens:
        yield from (IM_START, "user\n")
    yield from (TOOL_RESPONSE, f"\n{turn.text}\n", END_TOOL_RESPONSE, "\n")
    if closes:
        yield from (IM_END, "\n")


def _is_tool(turns: Sequence[Message], at: int) -> bool:
    return 0 <= at < len(turns) and turns[at].role is Role.TOOL
