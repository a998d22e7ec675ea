"""What the bodies of requests ask for, read into types.

What would change the answer and is not done here is refused by name, never left out in silence; what changes nothing
(`user`, `metadata`, `store`, ...) may say what it likes.

Source: OpenAI's API; the model card and vLLM for what goes beyond it.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omni_jobs.errors import UsageError
from workers.engine.messages import Message, read_messages, wrong
from workers.engine.sampling import PRESETS, SamplingParams, Task
from workers.engine.template import ChatOptions
from workers.engine.tools import Tool, read_tools
from workers.serving.decoding import Watching
from workers.serving.forcing import forced_schema

Body = Mapping[str, Any]
MAX_FRAMES = 2048
# Fields with the values that change nothing.
NOT_DONE: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "repetition_penalty": (1,),
    "logit_bias": ({},), "min_p": (0,), "top_logprobs": (0,), "echo": (False,), "suffix": ("",), "audio": (),
    "modalities": (["text"],), "functions": (), "function_call": (), "prompt_logprobs": (), "min_tokens": (0,),
    "ignore_eos": (False,), "guided_json": (), "guided_regex": (), "guided_choice": (), "structured_outputs": (),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What both kinds of request have.

    Attributes:
        include_usage: a stream ends with the counts.
    """

    model: str
    sampling: SamplingParams
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatWanted(Wanted):
    """
    Attributes:
        tools: what may be called.
        forced: the answer is a call, as JSON.
    """

    messages: Sequence[Message]
    tools: Sequence[Tool]
    options: ChatOptions
    watching: Watching
    forced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextWanted(Wanted):
    """
    Attributes:
        prompt: text whose control tokens are meant, or ids.
    """

    prompt: str | tuple[int, ...]


def read_chat(body: Body, *, context: int, watching: Watching) -> ChatWanted:
    """
    Args:
        context: positions of prompt and answer.
        watching: how the server looks at videos where the request does not say.

    Raises:
        UsageError: what cannot be meant, or is not done; `pointer` names the field.
    """
    _refuse_not_done(body)
    options = ChatOptions.read(body.get("chat_template_kwargs") or {})
    tools = read_tools(body.get("tools"))
    schema, forced = _schema(body.get("response_format")), False
    choice = body.get("tool_choice") or "auto"
    if choice == "none":
        tools = []
    elif choice != "auto":
        if schema is not None:
            raise wrong("/tool_choice", "auto or none beside response_format", choice)
        schema, forced = forced_schema(tools, choice), True
    elif tools and schema is not None:
        raise wrong("/response_format", "text beside tools that may be called (or tool_choice none)", "a schema")
    sampling = _sampling(body, thinking=options.enable_thinking, context=context)
    return ChatWanted(
        **_common(body),
        sampling=replace(sampling, json_schema=schema, **_thinking(body, options)),
        messages=read_messages(body.get("messages")),
        tools=tools,
        options=options,
        watching=_watching(body, watching),
        forced=forced,
    )


def read_text(body: Body, *, context: int) -> TextWanted:
    """As `read_chat`, of a completion. One prompt."""
    _refuse_not_done(body)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, list) and prompt and all(type(id) is int for id in prompt):
        prompt = tuple(prompt)
    if not isinstance(prompt, str | tuple) or not prompt:
        raise wrong("/prompt", "one text, or the ids of one", prompt)
    schema = _schema(body.get("response_format"))
    sampling = _sampling(body, thinking=False, context=context)
    budget = _count(body, "thinking_token_budget")
    sampling = replace(sampling, json_schema=schema, thinking_budget=budget)
    return TextWanted(**_common(body), sampling=sampling, prompt=prompt)


def _common(body: Body) -> dict[str, Any]:
    stream, more = _flag(body, "stream"), body.get("stream_options") or {}
    if not isinstance(more, dict):
        raise wrong("/stream_options", "an object", more)
    logprobs = body.get("logprobs")
    if logprobs not in (None, False, True, 0):
        raise wrong("/logprobs", "true, or 0 (of the chosen tokens alone)", logprobs)
    wants_logprobs = logprobs is not None and (logprobs is not False or type(logprobs) is int)
    if stream and wants_logprobs:
        raise wrong("/logprobs", "none in a stream", logprobs)
    model = body.get("model")
    if not isinstance(model, str):
        raise wrong("/model", "the name of a model", model)
    return {
        "model": model,
        "stream": stream,
        "include_usage": _flag(more, "include_usage", "/stream_options"),
        "logprobs": wants_logprobs,
    }


def _refuse_not_done(body: Body) -> None:
    for name, harmless in NOT_DONE.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            raise UsageError(f"{name}: this server does not do that, got {repr(value)[:80]}", pointer=f"/{name}")


def _sampling(body: Body, *, thinking: bool, context: int) -> SamplingParams:
    """What is asked for; where nothing is, what the card recommends."""
    preset = PRESETS[Task.REASONING if thinking else Task.INSTRUCT].params
    given = {name: body[name] for name in ("temperature", "top_p", "top_k") if body.get(name) is not None}
    if given.get("top_k") == -1:
        given["top_k"] = 0  # vLLM's word for all
    drawn = given or {"temperature": preset.temperature, "top_p": preset.top_p, "top_k": preset.top_k}
    seed = body.get("seed")
    most = body.get("max_completion_tokens")
    most = body.get("max_tokens") if most is None else most
    return SamplingParams(
        **drawn,
        seed=secrets.randbits(63) if seed is None else seed,
        max_tokens=min(preset.max_tokens, context // 2) if most is None else most,
        stop=_stops(body.get("stop")),
        stop_ids=(*SamplingParams().stop_ids, *_ids(body.get("stop_token_ids"))),
    )


def _thinking(body: Body, options: ChatOptions) -> dict[str, int | None]:
    """The card sends the budget, which the prompt names too, and grace on top of it in one number."""
    most, named = _count(body, "thinking_token_budget"), options.reasoning_budget
    if most is None or not options.enable_thinking:
        return {}
    budget = most if named is None else min(named, most)
    return {"thinking_budget": budget, "thinking_grace": most - budget}


def _schema(raw: Any) -> Mapping[str, Any] | None:
    at = "/response_format"
    if raw is None:
        return None
    kind = raw.get("type") if isinstance(raw, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise wrong(f"{at}/type", "text, json_object or json_schema", raw if kind is None else kind)
    named = raw.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise wrong(f"{at}/json_schema/schema", "a JSON schema", schema)
    return schema


def _watching(body: Body, default: Watching) -> Watching:
    """`mm_processor_kwargs` and `media_io_kwargs` over what the server does by itself."""
    at, raw = "/mm_processor_kwargs", body.get("mm_processor_kwargs") or {}
    _only(raw, at, "use_audio_in_video", "video_pruning_rate")
    rate = raw.get("video_pruning_rate", default.pruning_rate)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise wrong(f"{at}/video_pruning_rate", "a number of at least 0 and below 1", rate)
    io, video = body.get("media_io_kwargs") or {}, {}
    _only(io, "/media_io_kwargs", "video", "image", "audio")
    if io:
        video = io.get("video") or {}
        _only(video, "/media_io_kwargs/video", "fps", "num_frames")
    fps, frames = video.get("fps", default.fps), video.get("num_frames", default.frames)
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 <= fps <= 1000:
        raise wrong("/media_io_kwargs/video/fps", "frames a second, 0 for all", fps)
    if type(frames) is not int or not 1 <= frames <= MAX_FRAMES:
        raise wrong("/media_io_kwargs/video/num_frames", f"a whole number from 1 to {MAX_FRAMES}", frames)
    sound = default.sound if raw.get("use_audio_in_video") is None else _flag(raw, "use_audio_in_video", at)
    return Watching(fps, frames, sound, float(rate))


def _only(raw: Any, at: str, *names: str) -> None:
    if not isinstance(raw, dict):
        raise wrong(at, "an object", raw)
    for name in raw:
        if name not in names:
            raise wrong(f"{at}/{name}", f"one of {', '.join(names)}", name)


def _flag(raw: Body, name: str, at: str = "") -> bool:
    value = raw.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(f"{at}/{name}", "true or false", value)
    return bool(value)


def _count(raw: Body, name: str) -> int | None:
    value = raw.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise wrong(f"/{name}", "a whole number of at least 0", value)
    return value


def _stops(raw: Any) -> tuple[str, ...]:
    return _listed(raw, "/stop", "a text or a list of texts", lambda one: isinstance(one, str))


def _ids(raw: Any) -> tuple[int, ...]:
    return _listed(raw, "/stop_token_ids", "a list of ids", lambda one: type(one) is int)


def _listed(raw: Any, at: str, expected: str, fits: Callable[[Any], bool]) -> tuple[Any, ...]:
    values = [] if raw is None else raw if isinstance(raw, list) else [raw]
    if not all(fits(one) for one in values):
        raise wrong(at, expected, raw)
    return tuple(values)
