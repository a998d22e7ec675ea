"""Ends attempts for a whole process: what comes while a commit is under way goes into the next one.

The more is waiting, the larger the batch: no delay when idle, one fsync for many when busy.
"""

import queue
import threading
from concurrent.futures import Future

from sqlalchemy import Engine

from omni_jobs import telemetry
from omni_jobs.job import Pool
from omni_jobs.store import attempts
from omni_jobs.store.attempts import Ending, Fenced
from workers.patience import patient

log = telemetry.get_logger()
MOST = 64  # endings a transaction: it locks as many jobs


class Endings:
    """A queue of attempts to end, and the thread that ends them."""

    def __init__(self, db: Engine) -> None:
        self._db = db
        self._queue: queue.SimpleQueue[tuple[Ending, Future[set[Pool]]] | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="endings", daemon=True)
        self._thread.start()

    def end(self, ending: Ending) -> set[Pool]:
        """End one attempt; returns, once that is committed, the pools that have got work.

        Raises:
            Fenced: it was not taken.
        """
        done: Future[set[Pool]] = Future()
        self._queue.put((ending, done))
        return done.result()

    def close(self) -> None:
        """After the last `end` has returned."""
        self._closed.set()
        self._queue.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < MOST and not self._queue.empty():
                if (more := self._queue.get()) is None:
                    self._end(batch)
                    return
                batch.append(more)
            self._end(batch)

    def _end(self, batch: list[tuple[Ending, "Future[set[Pool]]"]]) -> None:
        try:
            answers = patient(lambda: attempts.end(self._db, [ending for ending, _ in batch]), self._closed)
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            # One of them cannot be written: the others must not suffer for it.
            log.warning("endings.one_by_one", count=len(batch), error=str(error)[:200])
            for one in batch:
                self._end([one])
            return
        for (_, done), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Fenced):
                done.set_exception(answer)
            else:
                done.set_result(answer)
