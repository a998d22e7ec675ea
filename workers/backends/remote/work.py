"""One unit in hand: how its questions are asked, and how far it is."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

from omni_jobs.settings import Settings
from workers.backends.backend import Request, Unusable
from workers.backends.remote import reading, wire
from workers.backends.remote.chat import Chat
from workers.backends.remote.data_uris import Part
from workers.prompts import Prompt, Said

T = TypeVar("T")
TYPICAL_S = 60.0  # of a question


class Work:
    """What the answer to one unit needs. One question is under way at a time, so places at servers are units'."""

    def __init__(self, chat: Chat, settings: Settings, executor: Executor, request: Request) -> None:
        self.settings, self.request = settings, request
        self._chat, self._executor = chat, executor
        self._questions, self._answered = 1, 0
        self._began = time.monotonic()

    @property
    def again(self) -> bool:
        """Whether a gate has refused an answer before."""
        return self.request.rung > 0

    @property
    def reasoning_tokens(self) -> int:
        return self.settings.remote_reasoning

    @property
    def progress(self) -> float:
        """0..1. It creeps while an answer is waited for: that ends by its own time limit, and is no standstill."""
        waiting = 1.0 - math.exp(-(time.monotonic() - self._began) / TYPICAL_S)
        return min(0.99, (self._answered + 0.95 * waiting) / self._questions)

    def expect(self, questions: int) -> None:
        """So many are asked in all."""
        self._questions = max(questions, self._answered + 1)

    async def off_loop(self, call: Callable[[], T]) -> T:
        """Run what takes the CPU outside of the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def text(self, prompt: Prompt[Any], media: Sequence[Part] = (), *, frames: int = 0) -> str:
        """The answer as text, without reasoning."""
        self._began = time.monotonic()
        # Asked again, an answer has twice the room: it may have been cut off.
        most = min(prompt.most_tokens * (2 if self.again else 1), self.settings.remote_max_tokens)
        body = wire.body_of(self.settings.remote_model, prompt, media, most_tokens=most, frames=frames)
        reply = await self._chat.ask(body, frames=frames)
        self._answered, self._began = self._answered + 1, time.monotonic()
        self._questions = max(self._questions, self._answered)
        return reading.answer_of(reply.content)

    async def parsed(self, prompt: Prompt[Said], media: Sequence[Part] = (), *, frames: int = 0) -> Said:
        """The answer in the shape of the prompt.

        Raises:
            Unusable: it has another one.
        """
        assert prompt.shape is not None
        text = await self.text(prompt, media, frames=frames)
        if not text:
            raise Unusable("schema", "expected JSON as asked for, got nothing")
        return reading.parse(text, prompt.shape)
