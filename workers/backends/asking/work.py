"""One unit in hand: how its questions are asked, and how far it is."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from workers.backends.asking import reading
from workers.backends.backend import Request, Unusable
from workers.inputs import Canonical
from workers.prompts import Prompt, Said

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Manner:
    """How a backend asks, whatever the unit.

    Attributes:
        frames: most that one question shows.
        most_tokens: longest answer, without what is thought before it.
        reasoning_tokens: what may be thought before a clip is described or a source summed up; 0: nothing.
        language: of speech, where a job names none.
    """

    frames: int
    most_tokens: int
    reasoning_tokens: int
    language: str


@dataclass(frozen=True, slots=True)
class Question:
    """
    Attributes:
        media: shown before the text; the frames of a clip have the times that the text speaks of.
        most_tokens: limit of the answer, without what is thought before it.
    """

    unit_id: str
    prompt: Prompt[Any]
    media: Canonical | None
    most_tokens: int


class Asker(Protocol):
    """Whoever answers questions. Lives in one event loop; a unit has one question under way at a time."""

    async def ask(self, question: Question) -> str:
        """What is said, without what was thought before. When it is cancelled, the question is no more under way.

        Raises:
            Unusable: the answer did not end by itself.
            SourceError: this question is refused.
            Unavailable: nobody answers now.
        """
        ...

    def share(self, unit_id: str, waited_s: float) -> float:
        """0..1 of the question under way; moves while somebody works on it."""
        ...


class Work:
    """What the answer to one unit needs. One question is under way at a time, so places at the asker are units'."""

    def __init__(self, asker: Asker, manner: Manner, executor: Executor, request: Request) -> None:
        self.manner, self.request = manner, request
        self._asker, self._executor = asker, executor
        self._questions, self._answered = 1, 0
        self._began = time.monotonic()

    @property
    def again(self) -> bool:
        """Whether a gate has refused an answer before."""
        return self.request.rung > 0

    @property
    def reasoning_tokens(self) -> int:
        return self.manner.reasoning_tokens

    @property
    def progress(self) -> float:
        """0..1 of the unit."""
        share = self._asker.share(self.request.unit_id, time.monotonic() - self._began)
        return min(0.99, (self._answered + 0.95 * share) / self._questions)

    def expect(self, questions: int) -> None:
        """So many are asked in all."""
        self._questions = max(questions, self._answered + 1)

    async def off_loop(self, call: Callable[[], T]) -> T:
        """Run what takes the CPU outside of the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def text(self, prompt: Prompt[Any], media: Canonical | None = None) -> str:
        """The answer as text, without reasoning."""
        self._began = time.monotonic()
        # Asked again, an answer has twice the room: it may have been cut off.
        most = min(prompt.most_tokens * (2 if self.again else 1), self.manner.most_tokens)
        said = await self._asker.ask(Question(self.request.unit_id, prompt, media, most))
        self._answered, self._began = self._answered + 1, time.monotonic()
        self._questions = max(self._questions, self._answered)
        return said

    async def parsed(self, prompt: Prompt[Said], media: Canonical | None = None) -> Said:
        """The answer in the shape of the prompt.

        Raises:
            Unusable: it has another one.
        """
        assert prompt.shape is not None
        text = await self.text(prompt, media)
        if not text:
            raise Unusable("schema", "expected JSON as asked for, got nothing")
        return reading.parse(text, prompt.shape)
