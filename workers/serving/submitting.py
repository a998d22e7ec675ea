"""What is wanted, handed to the engine: chats through the prefetch with their media, texts as they are."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from workers.engine.compose import Ask
from workers.engine.loop import Listener
from workers.engine.media import Decoded
from workers.engine.messages import Medium
from workers.engine.request import Request, Result
from workers.engine.start import Running
from workers.engine.tokenizer import END_THINK, THINK, Tokenizer
from workers.media.sandbox import Limits
from workers.room import Room
from workers.serving.decoding import Watching, decode
from workers.serving.exchange import Submit
from workers.serving.sources import Sources
from workers.serving.wanted import ChatWanted, TextWanted, Wanted


def submit(id: str, wanted: Wanted, sources: Sources, limits: Limits, room: Room) -> Submit:
    """How a request is put in line once the engine is there."""

    def go(running: Running, listener: Listener, cancel: threading.Event) -> "Future[Result]":
        if isinstance(wanted, ChatWanted):
            future = running.prefetch.submit(_ask(id, wanted, sources, limits, room, cancel), listener)
            future.add_done_callback(lambda _: room.leave(id))
            return future
        assert isinstance(wanted, TextWanted)
        return running.loop.submit(_request(id, wanted, running.tokenizer), listener)

    return go


def _ask(id: str, wanted: ChatWanted, sources: Sources, limits: Limits, room: Room, cancel: threading.Event) -> Ask:
    def placed(load: Callable[[], Decoded]) -> Callable[[], Decoded]:
        return lambda: room.load(id, load)

    media = [medium for message in wanted.messages for medium in message.media]
    return Ask(
        id=id,
        messages=wanted.messages,
        sampling=wanted.sampling,
        media=[placed(_loader(medium, sources, limits, wanted.watching, cancel)) for medium in media],
        tools=wanted.tools,
        options=wanted.options,
        pruning_rate=wanted.watching.pruning_rate,
        logprobs=wanted.logprobs,
    )


def _loader(
    medium: Medium, sources: Sources, limits: Limits, watching: Watching, cancel: threading.Event
) -> Callable[[], Decoded]:
    def load() -> Decoded:
        with sources.open(medium.url) as source:
            return decode(medium.kind, source, limits, watching, cancel)

    return load


def _request(id: str, wanted: TextWanted, tokenizer: Tokenizer) -> Request:
    prompt = wanted.prompt
    ids = tuple(tokenizer.encode_prompt(prompt)) if isinstance(prompt, str) else prompt
    tags = [one for one in ids if one in (tokenizer.control(THINK), tokenizer.control(END_THINK))]
    thinking = bool(tags) and tags[-1] == tokenizer.control(THINK)
    return Request(id, ids, wanted.sampling, thinking=thinking, logprobs=wanted.logprobs)
