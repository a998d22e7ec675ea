"""A conversation as chat clients send it, read into `Message`s.

The content parts of a message become one text and a list of media: the template knows strings only, and would print
a list as Python writes it. Where media stand among the texts is not kept: they come first (see `chat`).

Source: the OpenAI chat format with the part types of the model card; spec 5.3.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from omni_jobs.errors import UsageError
from workers.engine.request import MediaKind

MAX_MESSAGES = 4096
MAX_NAME_CHARS = 128


class ConversationError(UsageError):
    """What a client sent is no conversation; `pointer` is the JSON pointer of the value at fault."""


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Medium:
    """An image, a video or a recording that a message shows; whoever prepares it reads it from `url`."""

    kind: MediaKind
    url: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function that the model asked for."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """
    Attributes:
        reasoning: what the assistant thought, where the client kept it.
        calls: what the assistant asked for.
    """

    role: Role
    text: str = ""
    media: tuple[Medium, ...] = ()
    reasoning: str = ""
    calls: tuple[Call, ...] = ()


_PARTS = {"image_url": MediaKind.IMAGE, "video_url": MediaKind.VIDEO, "audio_url": MediaKind.SOUND}
# `developer` is what newer clients call the system; the model knows one name.
_ROLES = {role.value: role for role in Role} | {"developer": Role.SYSTEM}


def read_messages(raw: Any) -> list[Message]:
    """The `messages` of a chat request.

    Raises:
        ConversationError: no list, no message, an unknown role or part, media outside of a user's message, a tool's
            result that nobody asked for, arguments that are no object.
    """
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_MESSAGES:
        got = f"{len(raw)} of them" if isinstance(raw, list) else raw
        raise wrong("/messages", f"a list of 1 to {MAX_MESSAGES} messages", got)
    messages: list[Message] = []
    for at, value in enumerate(raw):
        message = _message(value, f"/messages/{at}")
        before = messages[-1] if messages else None
        if message.role is Role.TOOL and not (before and (before.calls or before.role is Role.TOOL)):
            raise wrong(f"/messages/{at}/role", "a tool's message after an assistant's with tool_calls", "tool")
        messages.append(message)
    return messages


def wrong(pointer: str, expected: str, got: Any) -> ConversationError:
    shown = got if isinstance(got, str) else repr(got)
    return ConversationError(f"{pointer}: expected {expected}, got {shown[:80]}", pointer=pointer)


def is_name(value: Any) -> bool:
    """Whether a function may be called so: the call syntax ends a name at `>` or a line break."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_CHARS:
        return False
    return all(char.isascii() and (char.isalnum() or char in "_-.:/") for char in value)


def _message(raw: Any, at: str) -> Message:
    if not isinstance(raw, dict):
        raise wrong(at, "an object", raw)
    role = _ROLES.get(raw["role"]) if isinstance(raw.get("role"), str) else None
    if role is None:
        raise wrong(f"{at}/role", f"one of {', '.join(_ROLES)}", raw.get("role"))
    texts, media = _content(raw.get("content"), f"{at}/content", role)
    reasoning = raw.get("reasoning_content", raw.get("reasoning"))
    if reasoning is not None and not isinstance(reasoning, str):
        raise wrong(f"{at}/reasoning_content", "a text", reasoning)
    if role is not Role.ASSISTANT:
        return Message(role, "\n".join(texts), tuple(media))
    return Message(role, "\n".join(texts), (), reasoning or "", _calls(raw.get("tool_calls"), f"{at}/tool_calls"))


def _content(raw: Any, at: str, role: Role) -> tuple[list[str], list[Medium]]:
    if isinstance(raw, str):
        return [raw], []
    if raw is None and role is Role.ASSISTANT:
        return [], []
    if not isinstance(raw, list):
        raise wrong(at, "a text or a list of parts", raw)
    texts: list[str] = []
    media: list[Medium] = []
    for nth, part in enumerate(raw):
        value = _part(part, f"{at}/{nth}")
        if isinstance(value, str):
            texts.append(value)
        elif role is Role.USER:
            media.append(value)
        else:
            raise wrong(
                f"{at}/{nth}/type", f"text (media belong into a user's message, not into a {role}'s)", value.kind
            )
    return texts, media


def _part(raw: Any, at: str) -> str | Medium:
    kind = raw.get("type") if isinstance(raw, dict) else None
    if kind == "text":
        if not isinstance(raw.get("text"), str):
            raise wrong(f"{at}/text", "a text", raw.get("text"))
        return raw["text"]
    if kind == "input_audio":
        sound = raw.get("input_audio")
        if not isinstance(sound, dict) or not all(isinstance(sound.get(key), str) for key in ("data", "format")):
            raise wrong(f"{at}/input_audio", "an object with data and format", sound)
        return Medium(MediaKind.SOUND, f"data:audio/{sound['format']};base64,{sound['data']}")
    if not isinstance(kind, str) or kind not in _PARTS:
        raise wrong(f"{at}/type", f"one of text, {', '.join(_PARTS)}, input_audio", raw if kind is None else kind)
    url = raw.get(kind)
    url = url.get("url") if isinstance(url, dict) else url
    if not isinstance(url, str) or not url:
        raise wrong(f"{at}/{kind}/url", "a URL", url)
    return Medium(_PARTS[kind], url)


def _calls(raw: Any, at: str) -> tuple[Call, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise wrong(at, "a list of calls", raw)
    return tuple(_call(call, f"{at}/{nth}") for nth, call in enumerate(raw))


def _call(raw: Any, at: str) -> Call:
    function = raw.get("function", raw) if isinstance(raw, dict) else None
    if not isinstance(function, dict) or not is_name(function.get("name")):
        raise wrong(f"{at}/function/name", "the name of a function", function and function.get("name"))
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _json(arguments, f"{at}/function/arguments") if arguments.strip() else {}
    if arguments is not None and not isinstance(arguments, dict):
        raise wrong(f"{at}/function/arguments", "a JSON object", arguments)
    return Call(function["name"], arguments or {})


def _json(text: str, at: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong(at, "a JSON object", f"{text[:40]!r} ({error})") from error
