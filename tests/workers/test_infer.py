"""One unit asked on a real database: what comes back is stored, refused, or failed, and nothing is asked for ever."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from omni_jobs.job import Pool, UnitKind
from omni_jobs.options import Options
from omni_jobs.settings import Settings
from omni_jobs.store import attempts, claims, submissions, units, workers
from omni_jobs.store.submissions import NewJob, NewSource
from omni_jobs.store.units import NewUnit
from tests.workers.parts import make_parts
from workers import infer
from workers.answers import SpanAnswer, SpokenSegment
from workers.backends.backend import Capabilities, Identity, Request, UnitAnswer
from workers.context import Context, Parts
from workers.counters import Counters
from workers.inputs import CanonicalAudio
from workers.pump import Pump

pytestmark = pytest.mark.servers

LOOP = SpanAnswer(
    language="en",
    segments=[SpokenSegment(start_s=k, end_s=k + 1, text="Thanks for watching.") for k in range(6)],
)
FINE = SpanAnswer(language="en", method="utterances", segments=[SpokenSegment(start_s=0, end_s=2, text="Thank you.")])


class Scripted:
    """A backend that says what it is told to, rung by rung."""

    def __init__(self, *said: UnitAnswer | Exception) -> None:
        self.said, self.rungs = said, list[int]()

    def identity(self) -> Identity:
        return Identity("scripted", {}, "digest")

    def capabilities(self) -> Capabilities:
        return Capabilities(frozenset({"span", "clip", "page", "reduce"}), slots=1)

    def submit(self, request: Request) -> "Future[UnitAnswer]":
        self.rungs.append(request.rung)
        future: Future[UnitAnswer] = Future()
        said = self.said[min(len(self.rungs), len(self.said)) - 1]
        if isinstance(said, Exception):
            future.set_exception(said)
        else:
            threading.Timer(0.05, future.set_result, [said]).start()
        return future

    def cancel(self, unit_id: str) -> None:
        raise AssertionError("it has answered, and is still waited for")

    def progress(self, unit_id: str) -> float:
        return 0.5


@pytest.fixture
def parts(db: Engine, tmp_path: Path) -> Parts:
    settings = Settings(blob_url=f"file://{tmp_path}/blobs", min_free_bytes=0, home=tmp_path / "home")
    return make_parts(db, settings, tmp_path)


@pytest.fixture
def job(db: Engine, parts: Parts) -> str:
    """A job whose one span waits."""
    options = Options(summary=False, word_times=False).model_dump(mode="json")
    job_id = submissions.insert(db, NewJob("acme", (NewSource("upload:a.wav", "a.wav", "k", "0" * 64, 10),), options))[
        0
    ]
    worker = workers.register(db, pool="cpu", host="h", pid=1, pid_started=1, version="t", backend=None)
    (prepare,) = claims.claim(db, worker, Pool.CPU, 1)
    parts.blobs.put("span", CanonicalAudio(np.zeros(160_000, np.int16)).to_bytes(), "audio/wav")
    where = {"start_s": 0.0, "end_s": 10.0, "blob": "span", "speech": []}
    attempts.finish(db, prepare, {}, follow=[NewUnit(UnitKind.SPAN, prepare.source_id, input=where)])
    return job_id


SPAN = "select state, answer, kept, error, rejected, failed, lost from omni.units where kind = 'span'"


class Silent:
    """A bell that nobody hears."""

    def wake(self, pool: str, *args: Any, **more: Any) -> None: ...


@pytest.fixture
def run(db: Engine, parts: Parts) -> Iterator[Callable[[Scripted], dict[str, Any]]]:
    """Let a pump of the gpu pool work until the span has ended; returns its row."""

    def until_ended(backend: Scripted) -> dict[str, Any]:
        worker = workers.register(db, pool="gpu", host="h", pid=1, pid_started=1, version="t", backend=None)
        pump = Pump(
            replace(parts, backend=backend),  # type: ignore[arg-type]
            Silent(),  # type: ignore[arg-type]
            Pool.GPU,
            {UnitKind.SPAN: infer.run},
            worker_id=worker,
            slots=1,
            counters=Counters(),
        )
        pump.start()
        try:
            end = time.monotonic() + 20
            while time.monotonic() < end:
                with db.connect() as tx:
                    row = tx.execute(text(SPAN)).mappings().one()
                if row["state"] in ("done", "dead"):
                    return dict(row)
                time.sleep(0.02)
                pump.wake()
            raise AssertionError(f"the span is still {row['state']}")
        finally:
            pump.close(0.0)

    yield until_ended
    parts.endings.close()


def outcomes(db: Engine) -> list[str]:
    with db.connect() as tx:
        found = tx.execute(
            text(
                "select a.outcome from omni.attempts a join omni.units u using (unit_id) where u.kind = 'span' "
                "order by a.generation"
            )
        )
        return [outcome for (outcome,) in found]


def test_an_answer_that_repeats_itself_is_asked_for_again_and_then_kept_as_refused(
    db: Engine, job: str, run: Callable[[Scripted], dict[str, Any]]
) -> None:
    backend = Scripted(LOOP)
    span = run(backend)
    assert backend.rungs == [0, 1]
    assert (span["state"], span["answer"], span["kept"]) == ("dead", None, LOOP.model_dump(mode="json"))
    assert (span["rejected"], span["failed"], span["lost"]) == (2, 0, 0)
    assert "repetition" in span["error"]["message"] and "thanks for watching" in span["error"]["message"]
    assert outcomes(db) == ["rejected", "rejected"]


def test_a_better_answer_on_the_next_rung_is_taken(
    db: Engine, job: str, run: Callable[[Scripted], dict[str, Any]]
) -> None:
    backend = Scripted(LOOP, FINE)
    span = run(backend)
    assert backend.rungs == [0, 1]
    assert (span["state"], span["answer"], span["error"]) == ("done", FINE.model_dump(mode="json"), None)
    assert outcomes(db) == ["rejected", "succeeded"]


def test_a_redone_stretch_begins_on_the_last_rung(
    db: Engine, job: str, run: Callable[[Scripted], dict[str, Any]]
) -> None:
    with db.begin() as tx:
        tx.execute(text("update omni.units set input = input || '{\"rung\": 1}' where kind = 'span'"))
    backend = Scripted(LOOP)
    assert run(backend)["state"] == "dead"
    assert backend.rungs == [1]


def test_a_timeout_of_the_backend_is_its_failure_and_no_reason_to_wait_on(db: Engine, job: str, parts: Parts) -> None:
    worker = workers.register(db, pool="gpu", host="h", pid=1, pid_started=1, version="t", backend=None)
    (unit,) = claims.claim(db, worker, Pool.GPU, 1)
    context = Context(replace(parts, backend=Scripted(TimeoutError("the server took too long"))), unit)  # type: ignore[arg-type]
    threading.Timer(2.0, context.cancel.set).start()
    with pytest.raises(TimeoutError, match="took too long"):
        infer.run(unit, context)
    assert units.answers(db, job, 1)[-1]["state"] == "running"
    parts.endings.close()
