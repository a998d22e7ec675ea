"""Requests and responses of `/chat/completions`, in the shapes of the model card.

Beyond OpenAI's own fields: `top_k`, `chat_template_kwargs`, `thinking_token_budget` and `mm_processor_kwargs` as the
card has them, and `media_io_kwargs` (vLLM, TensorRT-LLM), without which vLLM looks at 32 frames of any video.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from workers.backends.remote.data_uris import Part
from workers.prompts import GRACE_TOKENS, Prompt, Sampling, schema_of

Body = dict[str, Any]
# What a server may not know; it is left out once a server has refused it by name.
OPTIONAL = (
    "response_format", "media_io_kwargs", "mm_processor_kwargs", "thinking_token_budget", "chat_template_kwargs",
    "top_k", "seed",
)  # fmt: skip
# Other words for them in a refusal.
ALIASES = {"response_format": ("json_schema", "structured output", "guided")}
SHOWN = 300
DATA_URI = re.compile(r"data:[\w./+-]*;base64,[A-Za-z0-9+/=]*")


def body_of(model: str, prompt: Prompt[Any], media: Sequence[Part], *, most_tokens: int, frames: int = 0) -> Body:
    """A request.

    Args:
        media: content parts, shown before the text.
        most_tokens: limit of the answer, without what is thought before it.
        frames: of the video in `media`, all of which are to be looked at; 0: there is none.
    """
    sampling = prompt.sampling
    text: Part = {"type": "text", "text": prompt.text}
    body: Body = {
        "model": model,
        "messages": [{"role": "user", "content": [*media, text] if media else prompt.text}],
        "max_tokens": most_tokens + _thinking_tokens(sampling),
        "temperature": sampling.temperature,
        "stream": False,
        "chat_template_kwargs": {"enable_thinking": sampling.reasoning_tokens > 0},
    }
    for name in ("top_p", "top_k", "seed"):
        if (value := getattr(sampling, name)) is not None:
            body[name] = value
    if sampling.reasoning_tokens:
        body["chat_template_kwargs"]["reasoning_budget"] = sampling.reasoning_tokens
        body["thinking_token_budget"] = _thinking_tokens(sampling)
    if frames:
        body["mm_processor_kwargs"] = {"use_audio_in_video": False}
        body["media_io_kwargs"] = {"video": {"num_frames": frames}}
    if prompt.shape is not None:
        schema = {"name": prompt.shape.__name__, "schema": schema_of(prompt.shape), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _thinking_tokens(sampling: Sampling) -> int:
    return sampling.reasoning_tokens + GRACE_TOKENS if sampling.reasoning_tokens else 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        content: as it came, reasoning included where the server leaves it in.
        reasoning: what the server set apart as thought.
        finish: why it ended: stop, length, ...; empty where the server does not say.
    """

    content: str
    reasoning: str
    finish: str
    prompt_tokens: int | None
    answer_tokens: int | None


def reply_of(data: bytes) -> Reply:
    """Read a response.

    Raises:
        ValueError: it is not one of this API.
    """
    document = json.loads(data)
    try:
        choice = document["choices"][0]
        message = choice["message"]
        content, reasoning = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
        usage, finish = document.get("usage") or {}, choice.get("finish_reason") or ""
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("it has no choices with a message") from error
    counts = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    return Reply(_text(content), _text(reasoning), str(finish), *counts)


def _text(content: Any) -> str:
    """Text, or the text of its parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else None


def complaint_of(data: bytes) -> str:
    """What an error response says, in one short line; media that it quotes are left out."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = data.decode("utf-8", "replace")
    text = DATA_URI.sub("data:…", _said(document))
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"


def _said(document: Any) -> str:
    """The sentence in it: of OpenAI's shape, of vLLM's older one, of FastAPI's lists, or all of it."""
    match document:
        case {"error": {"message": str(message)}} | {"error": str(message)} | {"message": str(message)}:
            return message
        case {"detail": str(message)}:
            return message
        case {"detail": [dict(first), *_]}:
            return f"{'.'.join(map(str, first.get('loc', ())))}: {first.get('msg', '')}"
        case str(text):
            return text
        case _:
            return json.dumps(document)[: 4 * SHOWN]


def refused_field(complaint: str, body: Body) -> str | None:
    """The optional field that a server refuses, by what it says; None when it means something else."""
    said = complaint.lower()
    for name in OPTIONAL:
        if name in body and any(word in said for word in (name, *ALIASES.get(name, ()))):
            return name
    return None


def retry_after_s(header: str | None) -> float | None:
    """Seconds of a `Retry-After`, which may be a number or a date; None when it is neither."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
