"""Model servers that speak OpenAI's API: vLLM, SGLang, TensorRT-LLM, llama.cpp, Ollama, NIM.

One event loop in one thread holds all questions that are under way. A unit asks one after the other, so there are as
many units at work as there are places at the servers. No model is loaded here; what takes the CPU (finding speech,
writing video) runs in threads beside the loop.
"""

import hashlib
import json
from collections import OrderedDict
from concurrent.futures import Future

from omni_jobs import telemetry
from omni_jobs.errors import ErrorType, SourceError, UsageError
from omni_jobs.settings import Settings
from workers import prompts
from workers.backends.asking.units import MISSING, NAMES, Units
from workers.backends.asking.work import Manner
from workers.backends.backend import Capabilities, Identity, Request, Stats, UnitAnswer
from workers.backends.remote.asker import ServerAsker
from workers.backends.remote.chat import Chat
from workers.backends.remote.servers import Away, Servers, servers_of

log = telemetry.get_logger()

# Seconds of one place at a server for a second of sound or video, or a page: orders of magnitude.
COST_S = {"span": 0.05, "clip": 0.1, "page": 4.0, "reduce": 1.0}
MOST_STRIKES = 3
REMEMBERED = 4096  # units with strikes


def identity(settings: Settings) -> Identity:
    """Who would answer: the model by its name, and a digest over all that shapes an answer, whichever server gives it.

    Raises:
        UsageError: the settings name no model.
    """
    if not settings.remote_model:
        raise UsageError(
            "the backend `remote` needs OMNI_REMOTE_MODEL; `omni-jobs backend test URL` shows what a server has"
        )
    facts = {
        "prompts": prompts.VERSION,
        "model": settings.remote_model,
        "kinds": sorted(settings.remote_kinds),
        "video": settings.remote_video,
        "frames": settings.remote_frames,
        "max_tokens": settings.remote_max_tokens,
        "reasoning": settings.remote_reasoning,
        "language": settings.remote_language,
    }
    models = {NAMES[kind]: settings.remote_model for kind in sorted(settings.remote_kinds)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Identity("remote", models, digest, COST_S)


def missing(settings: Settings) -> tuple[str, ...]:
    """What these settings leave undone."""
    left_out = sorted(NAMES.keys() - set(settings.remote_kinds))
    return (*MISSING, *(f"{NAMES[kind]}: `{kind}` is not in OMNI_REMOTE_KINDS" for kind in left_out))


def manner_of(settings: Settings) -> Manner:
    return Manner(
        frames=settings.remote_frames,
        most_tokens=settings.remote_max_tokens,
        reasoning_tokens=settings.remote_reasoning,
        language=settings.remote_language,
    )


class Remote:
    """The backend of a machine that has model servers to ask."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._identity = settings, identity(settings)
        self._servers = Servers(servers_of(settings.remote_urls, settings.remote_concurrency))
        self._chat = Chat(settings, self._servers)
        self._units = Units("remote", settings.threads, manner_of(settings))
        self._asker = ServerAsker(self._chat, settings, self._units.executor)
        self._strikes: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def identity(self) -> Identity:
        return self._identity

    def capabilities(self) -> Capabilities:
        slots = sum(server.slots for server in self._servers.all)
        return Capabilities(frozenset(self._settings.remote_kinds), slots, missing(self._settings))

    def submit(self, request: Request) -> "Future[UnitAnswer]":
        return self._units.submit(request, self._asker, lambda problem: self._told(request.unit_id, problem))

    def cancel(self, unit_id: str) -> None:
        self._units.cancel(unit_id)

    def progress(self, unit_id: str) -> float:
        return self._units.progress(unit_id)

    def stats(self) -> Stats:
        running = sum(server.running for server in self._servers.all)
        return Stats(running, max(0, len(self._units) - running), self._units.answered)

    def health(self) -> str:
        return self._servers.health()

    def close(self) -> None:
        """Cancel what is under way, and close every connection."""
        self._units.close(self._chat.close)

    # In the loop

    def _told(self, unit_id: str, problem: BaseException | None) -> BaseException | None:
        if problem is None:
            self._strikes.pop(unit_id, None)
        return self._blamed(unit_id, problem) if isinstance(problem, Away) else problem

    def _blamed(self, unit_id: str, error: Away) -> Exception:
        """A server that is away costs a unit nothing; a unit on which servers fail while they answer others does."""
        if not error.suspect:
            return error
        now = self._units.answered
        strikes, answered = self._strikes.pop(unit_id, (0, now))
        self._strikes[unit_id] = (strikes + 1, answered)
        while len(self._strikes) > REMEMBERED:
            self._strikes.popitem(last=False)
        if strikes + 1 < MOST_STRIKES or now == answered:
            return error
        del self._strikes[unit_id]
        message = f"model servers failed on it {MOST_STRIKES} times and answered others meanwhile: {error}"
        log.warning("remote.suspect", unit=unit_id, reason=message)
        return SourceError(ErrorType.CRASHED, message, retryable=True)
