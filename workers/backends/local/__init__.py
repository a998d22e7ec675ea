"""Our own engine, in this process: every kind of unit, batched with everybody else's.

Made without torch: whoever asks what it would be (`identity`, `missing`) loads nothing; `Local` loads the model.
"""

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from omni_jobs import telemetry
from omni_jobs.errors import UsageError
from omni_jobs.settings import Settings
from workers.backends.asking.units import MISSING, NAMES, Units
from workers.backends.asking.work import Manner
from workers.backends.backend import Capabilities, Identity, Request, Stats, UnitAnswer
from workers.backends.local.weights import directory_of, identity, identity_with, require_engine
from workers.flight import Flight

if TYPE_CHECKING:
    from workers.engine.start import Running

__all__ = ["Local", "identity", "missing", "require_engine"]
log = telemetry.get_logger()
CLOSE_S = 30.0


def missing() -> tuple[str, ...]:
    """What it does not do."""
    return MISSING


def manner_of(settings: Settings) -> Manner:
    return Manner(
        frames=settings.model_frames,
        most_tokens=settings.model_max_tokens,
        reasoning_tokens=settings.model_reasoning,
        language=settings.model_language,
    )


class Local:
    """The backend of a machine with the weights."""

    def __init__(self, settings: Settings, flight: Flight, on_failure: Callable[[str], None] | None = None) -> None:
        """Loads the model, which takes as long as its files take to read.

        Args:
            on_failure: what happens when the engine has failed; by default the process ends, as in a crash.

        Raises:
            UsageError: no engine is installed, no model is named, or no sequence fits beside it.
            CheckpointError: the directory does not hold the model.
        """
        require_engine()
        self._engine = _started(settings, flight)
        self._identity = identity_with(settings, self._engine.digest)
        from workers.backends.local.asker import EngineAsker
        from workers.room import Room

        self._slots = self._engine.loop.load.free_slots
        self._units = Units("local", settings.threads, manner_of(settings))
        self._asker = EngineAsker(
            self._engine,
            context=_context_of(self._engine),
            timeout_s=settings.model_timeout_s,
            room=Room(settings.model_media_bytes),
            on_failure=on_failure or _die,
        )

    def identity(self) -> Identity:
        return self._identity

    def capabilities(self) -> Capabilities:
        """As many units at once as the engine has sequences."""
        return Capabilities(frozenset(NAMES), self._slots, missing())

    def submit(self, request: Request) -> "Future[UnitAnswer]":
        return self._units.submit(request, self._asker, lambda problem: problem)

    def cancel(self, unit_id: str) -> None:
        self._units.cancel(unit_id)

    def progress(self, unit_id: str) -> float:
        return self._units.progress(unit_id)

    def stats(self) -> Stats:
        """Running are those that the engine computes; all others wait, in line or between two questions."""
        running = self._engine.loop.load.running
        return Stats(running, max(0, len(self._units) - running), self._units.answered)

    def health(self) -> str:
        return self._engine.loop.health()

    def close(self) -> None:
        """Cancel what is under way, and end the engine's thread."""
        self._units.close(_nothing)
        self._engine.close(timeout_s=CLOSE_S)


def _started(settings: Settings, flight: Flight) -> "Running":
    import torch

    from workers.engine.start import start

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(settings.threads)
    path = directory_of(settings)
    log.info("engine.loading", model=str(path), device=device)
    try:
        engine = start(path, device=device, entering=flight.step)
    except ValueError as error:
        raise UsageError(f"the model in {path} cannot be run on this {device}: {error}") from error
    log.info("engine.ready", digest=engine.digest, sequences=engine.loop.load.free_slots)
    return engine


def _context_of(engine: "Running") -> int:
    from workers.engine.scheduler import Budgets

    return min(Budgets().context, engine.config.text.max_position_embeddings)


def _die(reason: str) -> None:
    """Nobody can say whose fault it was, and a device that failed once is not trusted: the flight record blames."""
    log.error("engine.failed", reason=reason)
    os.kill(os.getpid(), signal.SIGKILL)


async def _nothing() -> None:
    pass
