"""Model servers that speak OpenAI's API: vLLM, SGLang, TensorRT-LLM, llama.cpp, Ollama, NIM.

One event loop in one thread holds all questions that are under way. A unit asks one after the other, so there are as
many units at work as there are places at the servers. No model is loaded here; what takes the CPU (finding speech,
writing video) runs in threads beside the loop.
"""

import asyncio
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from omni_jobs import telemetry
from omni_jobs.errors import ErrorType, SourceError, UsageError
from omni_jobs.settings import Settings
from workers import prompts
from workers.backends.backend import Cancelled, Capabilities, Identity, Request, Stats, UnitAnswer
from workers.backends.remote import clips, pages, spans, summary
from workers.backends.remote.chat import Chat
from workers.backends.remote.servers import Away, Servers, servers_of
from workers.backends.remote.work import Work
from workers.inputs import CanonicalAudio, CanonicalClip, CanonicalPage

log = telemetry.get_logger()

NAMES = {"span": "speech", "clip": "captions", "page": "pages", "reduce": "summary"}
# Seconds of one place at a server for a second of sound or video, or a page: orders of magnitude.
COST_S = {"span": 0.05, "clip": 0.1, "page": 4.0, "reduce": 1.0}
MISSING = (
    "where in a frame a text stands, and where on a scanned page a block does: the model is not asked for places",
    "times: those of words come from forced alignment, those of shots from the cuts that were measured",
)
MOST_STRIKES = 3
REMEMBERED = 4096  # units with strikes
CLOSE_S = 10.0


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


class Remote:
    """The backend of a machine that has model servers to ask."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._identity = settings, identity(settings)
        self._servers = Servers(servers_of(settings.remote_urls, settings.remote_concurrency))
        self._chat = Chat(settings, self._servers)
        self._cpu = ThreadPoolExecutor(settings.threads, thread_name_prefix="remote-cpu")
        self._lock = threading.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._work: dict[str, Work] = {}
        self._unwanted: set[str] = set()
        self._answered, self._closing = 0, False
        self._strikes: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote", daemon=True)
        self._thread.start()

    def identity(self) -> Identity:
        return self._identity

    def capabilities(self) -> Capabilities:
        slots = sum(server.slots for server in self._servers.all)
        return Capabilities(frozenset(self._settings.remote_kinds), slots, missing(self._settings))

    def submit(self, request: Request) -> "Future[UnitAnswer]":
        future: Future[UnitAnswer] = Future()
        future.set_running_or_notify_cancel()
        work = Work(self._chat, self._settings, self._cpu, request)
        with self._lock:
            if self._closing:
                future.set_exception(Cancelled(request.unit_id))
                return future
            self._work[request.unit_id] = work
            self._loop.call_soon_threadsafe(self._begin, work, future)
        return future

    def cancel(self, unit_id: str) -> None:
        with self._lock:
            if unit_id not in self._work or self._closing:
                return
            self._unwanted.add(unit_id)
            self._loop.call_soon_threadsafe(self._stop, unit_id)

    def progress(self, unit_id: str) -> float:
        work = self._work.get(unit_id)
        return work.progress if work else 0.0

    def stats(self) -> Stats:
        running = sum(server.running for server in self._servers.all)
        with self._lock:
            return Stats(running, max(0, len(self._work) - running), self._answered)

    def health(self) -> str:
        return self._servers.health()

    def close(self) -> None:
        """Cancel what is under way, and close every connection."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop).result(CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        self._cpu.shutdown(wait=False, cancel_futures=True)
        self._loop.close()

    # In the loop

    async def _wind_up(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._chat.close()
        await self._loop.shutdown_default_executor()

    def _begin(self, work: Work, future: "Future[UnitAnswer]") -> None:
        unit_id = work.request.unit_id
        task = self._loop.create_task(self._attempt(work, future))
        self._tasks[unit_id] = task
        if unit_id in self._unwanted:
            task.cancel()

    def _stop(self, unit_id: str) -> None:
        if task := self._tasks.get(unit_id):
            task.cancel()

    async def _attempt(self, work: Work, future: "Future[UnitAnswer]") -> None:
        unit_id = work.request.unit_id
        answer: UnitAnswer | None = None
        problem: BaseException | None = None
        try:
            answer = await self._answer(work)
            self._answered += 1
            self._strikes.pop(unit_id, None)
        except asyncio.CancelledError:
            problem = Cancelled(unit_id)
        except Away as error:
            problem = self._blamed(unit_id, error)
        except BaseException as error:
            problem = error
        # Before anybody hears of it: the unit may be asked again at once.
        self._tasks.pop(unit_id, None)
        with self._lock:
            self._work.pop(unit_id, None)
            self._unwanted.discard(unit_id)
        if answer is None:
            future.set_exception(problem)
        else:
            future.set_result(answer)

    def _answer(self, work: Work) -> "Coroutine[Any, Any, UnitAnswer]":
        match work.request.media:
            case CanonicalAudio() as audio:
                return spans.transcribe(work, audio)
            case CanonicalPage() as page:
                return pages.read(work, page)
            case CanonicalClip() as clip:
                return clips.describe(work, clip)
            case None:
                return summary.summarise(work, work.request.context)

    def _blamed(self, unit_id: str, error: Away) -> Exception:
        """A server that is away costs a unit nothing; a unit on which servers fail while they answer others does."""
        if not error.suspect:
            return error
        strikes, answered = self._strikes.pop(unit_id, (0, self._answered))
        self._strikes[unit_id] = (strikes + 1, answered)
        while len(self._strikes) > REMEMBERED:
            self._strikes.popitem(last=False)
        if strikes + 1 < MOST_STRIKES or self._answered == answered:
            return error
        del self._strikes[unit_id]
        message = f"model servers failed on it {MOST_STRIKES} times and answered others meanwhile: {error}"
        log.warning("remote.suspect", unit=unit_id, reason=message)
        return SourceError(ErrorType.CRASHED, message, retryable=True)
