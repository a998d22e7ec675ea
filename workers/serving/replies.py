"""Answers in OpenAI's shapes, whole and as the chunks of a stream; both out of the same pieces."""

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from workers.engine.answer import Answer, AnswerParser
from workers.engine.messages import Call
from workers.engine.request import FinishReason, Result
from workers.engine.tokenizer import END_THINK, END_TOOL_CALL, THINK, TOOL_CALL, Control, Tokenizer
from workers.serving.forcing import read_forced
from workers.serving.wanted import ChatWanted, TextWanted, Wanted

Document = dict[str, Any]
_WRITTEN = (THINK, END_THINK, TOOL_CALL, END_TOOL_CALL)  # control tokens that text without a parser shows
_FINISH = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.DEADLINE: "length"}


class Reply(Protocol):
    """How one kind of request is answered."""

    def opening(self) -> list[Document]:
        """Chunks before anything is said."""
        ...

    def push(self, pieces: Sequence[str]) -> list[Document]:
        """Chunks for what was said."""
        ...

    def closing(self, result: Result) -> list[Document]:
        """The last chunks."""
        ...

    def whole(self, result: Result) -> Document:
        """The answer at once; of a reply that was pushed nothing."""
        ...


class ChatReply:
    """A chat completion."""

    def __init__(self, id: str, wanted: ChatWanted, tokenizer: Tokenizer, *, apart: bool) -> None:
        """
        Args:
            apart: thoughts come as `reasoning_content`, not inside `content`.
        """
        self._wanted, self._tokenizer, self._apart = wanted, tokenizer, apart
        self._head = {"id": id, "created": int(time.time()), "model": wanted.model}
        self._thinking = wanted.options.enable_thinking
        self._parser = AnswerParser(thinking=self._thinking and apart, tools=() if wanted.forced else wanted.tools)
        self._held: list[str] = []  # the JSON of a forced call
        self._calls = 0

    def opening(self) -> list[Document]:
        return [self._chunk({"role": "assistant", "content": ""})]

    def push(self, pieces: Sequence[str]) -> list[Document]:
        return self._chunks(self._said(pieces))

    def closing(self, result: Result) -> list[Document]:
        chunks = self._chunks(self._rest())
        chunks.append(self._chunk({}, self._finish(result)))
        if self._wanted.include_usage:
            usage = usage_of(result, self._thought(result))
            chunks.append({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        return chunks

    def whole(self, result: Result) -> Document:
        answer = self._said(result.pieces) + self._rest()
        message: Document = {"role": "assistant", "content": answer.content or (None if answer.calls else "")}
        if answer.reasoning:
            message |= _thoughts(answer.reasoning)
        if answer.calls:
            message["tool_calls"] = [self._call(call) for call in answer.calls]
        choice = {"index": 0, "message": message, "finish_reason": self._finish(result), "logprobs": None}
        if self._wanted.logprobs:
            choice["logprobs"] = {"content": logprobs_of(result, self._tokenizer), "refusal": None}
        usage = usage_of(result, self._thought(result))
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def _said(self, pieces: Iterable[str]) -> Answer:
        if not self._apart:
            pieces = [str(piece) if piece in (THINK, END_THINK) else piece for piece in pieces]
        answer = self._parser.push(pieces)
        if not self._wanted.forced:
            return answer
        self._held.append(answer.content)
        return Answer(answer.reasoning)

    def _rest(self) -> Answer:
        answer = self._parser.finish()
        if not self._wanted.forced:
            return answer
        text = "".join([*self._held, answer.content])
        before, closed, after = text.rpartition(END_THINK)  # where thoughts are not kept apart
        call = read_forced(after)
        return Answer(content=text) if call is None else Answer(content=before + closed, calls=(call,))

    def _chunks(self, answer: Answer) -> list[Document]:
        chunks = []
        if answer.reasoning:
            chunks.append(self._chunk(_thoughts(answer.reasoning)))
        if answer.content:
            chunks.append(self._chunk({"content": answer.content}))
        for call in answer.calls:
            at = self._calls
            chunks.append(self._chunk({"tool_calls": [{"index": at, **self._call(call)}]}))
        return chunks

    def _chunk(self, delta: Document, finish: str | None = None) -> Document:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _call(self, call: Call) -> Document:
        self._calls += 1
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        function = {"name": call.name, "arguments": arguments}
        return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}

    def _finish(self, result: Result) -> str:
        return "tool_calls" if self._calls else _FINISH[result.finish_reason]

    def _thought(self, result: Result) -> int:
        return thought_tokens(result, self._tokenizer.control(END_THINK)) if self._thinking else 0


class TextReply:
    """A completion: everything that was said, tags of thoughts and calls as text."""

    def __init__(self, id: str, wanted: TextWanted, tokenizer: Tokenizer) -> None:
        self._wanted, self._tokenizer = wanted, tokenizer
        self._head = {"id": id, "object": "text_completion", "created": int(time.time()), "model": wanted.model}

    def opening(self) -> list[Document]:
        return []

    def push(self, pieces: Sequence[str]) -> list[Document]:
        text = written(pieces)
        return [self._choice(text)] if text else []

    def closing(self, result: Result) -> list[Document]:
        chunks = [self._choice("", _FINISH[result.finish_reason])]
        if self._wanted.include_usage:
            chunks.append({**self._head, "choices": [], "usage": usage_of(result, 0)})
        return chunks

    def whole(self, result: Result) -> Document:
        document = self._choice(written(result.pieces), _FINISH[result.finish_reason])
        if self._wanted.logprobs:
            tokens = logprobs_of(result, self._tokenizer)
            document["choices"][0]["logprobs"] = {
                "tokens": [one["token"] for one in tokens],
                "token_logprobs": [one["logprob"] for one in tokens],
                "top_logprobs": None,
                "text_offset": None,
            }
        return {**document, "usage": usage_of(result, 0)}

    def _choice(self, text: str, finish: str | None = None) -> Document:
        choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
        return {**self._head, "choices": [choice]}


def reply_of(id: str, wanted: Wanted, tokenizer: Tokenizer, *, apart: bool) -> Reply:
    if isinstance(wanted, ChatWanted):
        return ChatReply(id, wanted, tokenizer, apart=apart)
    assert isinstance(wanted, TextWanted)
    return TextReply(id, wanted, tokenizer)


def written(pieces: Iterable[str]) -> str:
    return "".join(piece for piece in pieces if not isinstance(piece, Control) or piece in _WRITTEN)


def usage_of(result: Result, thought: int) -> Document:
    usage = result.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def thought_tokens(result: Result, end: int) -> int:
    """Of an answer that begins inside a thought, which the id `end` ends."""
    return result.ids.index(end) if end in result.ids else len(result.ids)


def logprobs_of(result: Result, tokenizer: Tokenizer) -> list[Document]:
    """Of every token that was drawn, thoughts included and the stop id left out."""
    said = result.ids[:-1] if isinstance(result.stopped_by, int) else result.ids
    found = []
    for id, logprob in zip(said, result.logprobs, strict=False):
        piece = tokenizer.piece(id)
        data = piece.encode() if isinstance(piece, Control) else piece
        text = data.decode("utf-8", "replace")
        found.append({"token": text, "logprob": logprob, "bytes": list(data), "top_logprobs": []})
    return found


def _thoughts(text: str) -> Document:
    # One name is vLLM's today, the other was and is SGLang's.
    return {"reasoning_content": text, "reasoning": text}
