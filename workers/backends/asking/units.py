"""Units under way: one event loop in a thread, and a task for each of them.

A unit asks one question after the other. What takes the CPU (finding speech, writing video) runs in threads beside the
loop.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from workers.backends.asking import clips, pages, spans, summary
from workers.backends.asking.work import Asker, Manner, Work
from workers.backends.backend import Cancelled, Request, UnitAnswer
from workers.inputs import CanonicalAudio, CanonicalClip, CanonicalPage

NAMES = {"span": "speech", "clip": "captions", "page": "pages", "reduce": "summary"}
MISSING = (
    "where in a frame a text stands, and where on a scanned page a block does: the model is not asked for places",
    "times: those of words come from forced alignment, those of shots from the cuts that were measured",
)
CLOSE_S = 10.0


class Units:
    """Threads: every method may be called from any.

    Attributes:
        executor: for what takes the CPU.
        answered: how many were, since the start.
    """

    def __init__(self, name: str, threads: int, manner: Manner) -> None:
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-cpu")
        self.answered = 0
        self._manner = manner
        self._lock = threading.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._work: dict[str, Work] = {}
        self._unwanted: set[str] = set()
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._work)

    def submit(
        self, request: Request, asker: Asker, told: Callable[[BaseException | None], BaseException | None]
    ) -> "Future[UnitAnswer]":
        """Begins a unit.

        Args:
            told: in the loop, how the unit ended: None, or what was raised; gives what its future is to raise.
        """
        future: Future[UnitAnswer] = Future()
        future.set_running_or_notify_cancel()
        work = Work(asker, self._manner, self.executor, request)
        with self._lock:
            if self._closing:
                future.set_exception(Cancelled(request.unit_id))
                return future
            self._work[request.unit_id] = work
            self._loop.call_soon_threadsafe(self._begin, work, future, told)
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

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Cancels what is under way, then does the `last` in the loop. May be called twice."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        asyncio.run_coroutine_threadsafe(self._wind_up(last), self._loop).result(CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        self.executor.shutdown(wait=False, cancel_futures=True)
        self._loop.close()

    # In the loop

    async def _wind_up(self, last: Callable[[], Awaitable[None]]) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await last()
        await self._loop.shutdown_default_executor()

    def _begin(
        self,
        work: Work,
        future: "Future[UnitAnswer]",
        told: Callable[[BaseException | None], BaseException | None],
    ) -> None:
        unit_id = work.request.unit_id
        task = self._loop.create_task(self._attempt(work, future, told))
        self._tasks[unit_id] = task
        if unit_id in self._unwanted:
            task.cancel()

    def _stop(self, unit_id: str) -> None:
        if task := self._tasks.get(unit_id):
            task.cancel()

    async def _attempt(
        self,
        work: Work,
        future: "Future[UnitAnswer]",
        told: Callable[[BaseException | None], BaseException | None],
    ) -> None:
        unit_id = work.request.unit_id
        answer: UnitAnswer | None = None
        problem: BaseException | None = None
        try:
            answer = await answer_of(work)
            self.answered += 1
        except asyncio.CancelledError:
            problem = Cancelled(unit_id)
        except BaseException as error:
            problem = error
        problem = told(problem)
        # Before anybody hears of it: the unit may be asked again at once.
        self._tasks.pop(unit_id, None)
        with self._lock:
            self._work.pop(unit_id, None)
            self._unwanted.discard(unit_id)
        if answer is None:
            future.set_exception(problem)
        else:
            future.set_result(answer)


def answer_of(work: Work) -> "Coroutine[Any, Any, UnitAnswer]":
    """The answer to a unit, by what it holds."""
    match work.request.media:
        case CanonicalAudio() as audio:
            return spans.transcribe(work, audio)
        case CanonicalPage() as page:
            return pages.read(work, page)
        case CanonicalClip() as clip:
            return clips.describe(work, clip)
        case None:
            return summary.summarise(work, work.request.context)
