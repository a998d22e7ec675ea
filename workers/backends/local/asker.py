"""One question to the engine: in, out, and what each way to end means.

| how it ends | what it means |
| --- | --- |
| by itself | the answer, without its thoughts |
| at its length | `Unusable`: asked again one rung up |
| at its deadline | `SourceError`, timeout, may be tried again |
| larger than the engine | `SourceError`, too large |
| refused otherwise | `SourceError`, unsupported |
| the device had no memory for it | `MemoryError`: tried again with nothing beside it |
| a step of the engine failed | the process ends, its flight record says who was in question |
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from omni_jobs.errors import ErrorType, SourceError, UsageError
from workers.backends.asking.work import Question
from workers.backends.backend import Cancelled, Unusable
from workers.backends.local.questions import ask_of
from workers.engine.answer import read_answer
from workers.engine.compose import Ask
from workers.engine.errors import EngineFailed, NeverFits, OutOfMemory
from workers.engine.media import Decoded
from workers.engine.request import FinishReason, Result
from workers.engine.start import Running
from workers.room import Room

MANY_STEPS = 1000.0


class EngineAsker:
    """Asks one engine. A question has the id of its unit, by which the flight record knows it."""

    def __init__(
        self, engine: Running, *, context: int, timeout_s: float, room: Room, on_failure: Callable[[str], None]
    ) -> None:
        """
        Args:
            context: positions of one sequence.
            timeout_s: longest wait for one answer.
            room: for decoded media.
            on_failure: is told why the engine takes nothing any more, before any unit is.
        """
        self._engine, self._room, self._on_failure = engine, room, on_failure
        self._context, self._timeout_s = context, timeout_s
        self._first_steps: dict[str, int] = {}

    async def ask(self, question: Question) -> str:
        id = question.unit_id
        self._first_steps[id] = self._engine.loop.steps
        try:
            ask = ask_of(question, context=self._context, timeout_s=self._timeout_s)
            result = await self._result(ask)
        except NeverFits as error:
            raise SourceError(ErrorType.TOO_LARGE, str(error)) from error
        except UsageError as error:
            raise SourceError(ErrorType.UNSUPPORTED, f"the engine refused it: {error}") from error
        except OutOfMemory as error:
            raise MemoryError(str(error)) from error
        except EngineFailed as error:
            self._on_failure(str(error))
            raise
        finally:
            del self._first_steps[id]
        return self._read(result, thinking=ask.options.enable_thinking)

    def share(self, unit_id: str, waited_s: float) -> float:
        """Mostly how far its sequence is; the rest moves with every step, because who waits in line is alive too."""
        loop = self._engine.loop
        steps = loop.steps - self._first_steps.get(unit_id, loop.steps)
        return 0.95 * loop.progress(unit_id) + 0.05 * steps / (steps + MANY_STEPS)

    async def _result(self, ask: Ask) -> Result:
        """How it ended. Cancelled, it ends in the engine first: its id may be asked again at once."""
        answer = asyncio.wrap_future(self._engine.prefetch.submit(self._placed(ask)))
        try:
            await asyncio.wait({answer})
        except asyncio.CancelledError:
            self._engine.prefetch.abort(ask.id)
            self._room.leave(ask.id)  # it may wait there
            await asyncio.wait({answer})
            answer.exception()
            raise
        finally:
            self._room.leave(ask.id)
        return answer.result()

    def _placed(self, ask: Ask) -> Ask:
        """Its media are decoded once there is room."""

        def placed(load: Callable[[], Decoded]) -> Callable[[], Decoded]:
            return lambda: self._room.load(ask.id, load)

        return replace(ask, media=[placed(load) for load in ask.media])

    def _read(self, result: Result, *, thinking: bool) -> str:
        match result.finish_reason:
            case FinishReason.STOP:
                return read_answer(result.pieces, thinking=thinking).content.strip()
            case FinishReason.LENGTH:
                raise Unusable("length", f"the answer did not end within {len(result.ids)} tokens")
            case FinishReason.DEADLINE:
                message = f"the engine did not end the answer within {self._timeout_s:g} s"
                raise SourceError(ErrorType.TIMEOUT, message, retryable=True)
            case _:
                raise Cancelled(result.id)
