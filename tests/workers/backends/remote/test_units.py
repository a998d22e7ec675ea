"""Units of every kind through the pump and `infer.run` on a real database, answered by a recorded server."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from omni_jobs.job import Pool, UnitKind
from omni_jobs.options import Options
from omni_jobs.settings import Settings
from omni_jobs.store import attempts, claims, jobs, submissions, workers
from omni_jobs.store.submissions import NewJob, NewSource
from omni_jobs.store.units import NewUnit
from tests.waiting import eventually
from tests.workers.backends.remote.conftest import Make, clip, page
from tests.workers.backends.remote.recorded import Play, RecordedServer, Traits, recorded
from tests.workers.parts import make_parts
from workers import infer
from workers.backends.remote import Remote
from workers.context import Parts
from workers.counters import Counters
from workers.inputs import CanonicalAudio
from workers.pump import Pump

pytestmark = pytest.mark.servers
COLUMNS = "kind, state, answer, kept, error, failed, lost, rejected"
KEY = "sk-very-secret-0123456789"


@pytest.fixture
def parts(db: Engine, tmp_path: Path) -> Iterator[Parts]:
    settings = Settings(blob_url=f"file://{tmp_path}/blobs", min_free_bytes=0, home=tmp_path / "home")
    made = make_parts(db, settings, tmp_path)
    yield made
    made.endings.close()


@pytest.fixture
def make_units(db: Engine, parts: Parts) -> Callable[..., str]:
    """A job whose units of these kinds wait; returns its id."""

    def make(talk: np.ndarray | None, *kinds: str) -> str:
        options = Options(word_times=False).model_dump(mode="json")
        source = NewSource("upload:a.mp4", "a.mp4", "k", "0" * 64, 10)
        job_id = submissions.insert(db, NewJob("acme", (source,), options))[0]
        worker = workers.register(db, pool="cpu", host="h", pid=1, pid_started=1, version="t", backend=None)
        (prepare,) = claims.claim(db, worker, Pool.CPU, 1)
        samples = np.zeros(16_000, np.int16) if talk is None else talk
        media = {"span": CanonicalAudio(samples, 40.0), "clip": clip(4.0, 2.0), "page": page(text="Dear")}
        where: dict[str, dict[str, Any]] = {
            "span": {"start_s": 40.0, "end_s": 40.0 + len(samples) / 16_000, "speech": []},
            "clip": {"start_s": 100.0, "end_s": 106.0},
            "page": {"page": 3, "width_pt": 595.0, "height_pt": 842.0},
        }
        for kind in kinds:
            parts.blobs.put(kind, media[kind].to_bytes(), "application/octet-stream")
        follow = [
            NewUnit(UnitKind(kind), prepare.source_id, input={**where[kind], "blob": kind}, position=number)
            for number, kind in enumerate(kinds)
        ]
        attempts.finish(db, prepare, {}, follow=follow)
        return job_id

    return make


class Silent:
    """A bell that nobody hears."""

    def wake(self, pool: str, *args: Any, **more: Any) -> None: ...


@pytest.fixture
def pumping(db: Engine, parts: Parts, remote: Make) -> Iterator[Callable[[Remote], Pump]]:
    """A pump of the gpu pool that asks a backend, and ends before it."""
    started: list[Pump] = []

    def start(backend: Remote) -> Pump:
        slots = backend.capabilities().slots
        worker = workers.register(
            db, pool="gpu", host="h", pid=1, pid_started=1, version="t", backend=None, slots=slots
        )
        handlers = {UnitKind(kind): infer.run for kind in backend.capabilities().kinds}
        silent: Any = Silent()
        pump = Pump(
            replace(parts, backend=backend),
            silent,
            Pool.GPU,
            handlers,
            worker_id=worker,
            slots=slots,
            counters=Counters(),
        )
        started.append(pump)
        pump.start()
        return pump

    yield start
    for pump in started:
        pump.close(0.0)


def rows(db: Engine, *kinds: str) -> list[dict[str, Any]]:
    query = text(f"select {COLUMNS} from omni.units where kind = any(:kinds) order by position")
    with db.connect() as tx:
        return [dict(row) for row in tx.execute(query, {"kinds": list(kinds)}).mappings()]


def ended(db: Engine, pump: Pump, *kinds: str, timeout_s: float = 20.0) -> list[dict[str, Any]]:
    """The rows of these kinds once all of them are done or dead."""

    def all_ended() -> bool:
        pump.wake()
        found = rows(db, *kinds)
        return bool(found) and all(row["state"] in ("done", "dead") for row in found)

    assert eventually(all_ended, timeout_s), [(row["kind"], row["state"], row["error"]) for row in rows(db, *kinds)]
    return rows(db, *kinds)


def outcomes(db: Engine, kind: str) -> list[str]:
    query = text(
        "select a.outcome from omni.attempts a join omni.units u using (unit_id) where u.kind = :kind "
        "order by a.generation"
    )
    with db.connect() as tx:
        return [outcome for (outcome,) in tx.execute(query, {"kind": kind})]


def test_every_kind_of_unit_is_answered(
    db: Engine,
    make_units: Callable[..., str],
    pumping: Callable[[Remote], Pump],
    remote: Make,
    server: RecordedServer,
    talk: np.ndarray,
) -> None:
    make_units(talk, "span", "clip", "page")
    pump = pumping(remote())
    span, seen, read = ended(db, pump, "span", "clip", "page")
    assert [row["state"] for row in (span, seen, read)] == ["done"] * 3
    assert span["answer"]["segments"][0]["text"] == "It was the best of times."
    assert span["answer"]["segments"][0]["start_s"] >= 40.0
    assert [shot["end_s"] for shot in seen["answer"]["shots"]] == [104.0, 106.0]
    assert read["answer"]["blocks"][1]["rows"] == [["Reel", "State"], ["1", "damp"]]
    # What they said is summed up next.
    (summed,) = ended(db, pump, "reduce")
    assert summed["answer"]["method"] in ("model", "none") and server.refused == []


def test_an_answer_that_is_no_json_is_asked_for_again_and_then_given_up(
    db: Engine, make_units: Callable[..., str], pumping: Callable[[Remote], Pump], remote: Make, server: RecordedServer
) -> None:
    make_units(None, "page")
    server.plays = [Play(content="I see a letter."), Play(content="Still a letter.")]
    (row,) = ended(db, pumping(remote()), "page")
    assert (row["state"], row["answer"], row["kept"]) == ("dead", None, None)
    assert (row["rejected"], row["failed"], row["lost"]) == (2, 0, 0)
    assert "(schema): expected JSON as asked for, got 'Still a letter.'" in row["error"]["message"]
    assert outcomes(db, "page") == ["rejected", "rejected"]
    assert [one.body.get("seed") for one in server.asked] == [None, 2]


def test_a_cut_off_answer_gets_more_room(
    db: Engine, make_units: Callable[..., str], pumping: Callable[[Remote], Pump], remote: Make, server: RecordedServer
) -> None:
    make_units(None, "page")
    server.plays = [Play(content='{"blocks": [{"kind": "te', finish="length")]
    (row,) = ended(db, pumping(remote()), "page")
    assert row["state"] == "done" and outcomes(db, "page") == ["rejected", "succeeded"]


def test_a_busy_server_costs_a_unit_nothing_and_the_job_says_what_it_waits_for(
    db: Engine, make_units: Callable[..., str], pumping: Callable[[Remote], Pump], remote: Make, server: RecordedServer
) -> None:
    job_id = make_units(None, "page")
    server.plays = [Play(429, headers={"Retry-After": "120"}, message="queue is full")]
    pumping(remote())
    assert eventually(lambda: outcomes(db, "page") == ["released"])
    waiting = jobs.get(db, "acme", job_id)["waiting"]
    assert waiting.startswith("waiting: the model server 127.0.0.1:") and waiting.endswith("429: queue is full")
    (row,) = rows(db, "page")
    assert (row["state"], row["failed"], row["lost"], row["rejected"]) == ("ready", 0, 0, 0)


def test_a_refused_input_is_dead_at_once_and_says_why(
    db: Engine, make_units: Callable[..., str], pumping: Callable[[Remote], Pump], remote: Make
) -> None:
    make_units(None, "page")
    with recorded(Traits(max_model_len=2048)) as small:
        (row,) = ended(db, pumping(remote(small.url)), "page")
    assert (row["state"], row["error"]["type"], row["failed"]) == ("dead", "unsupported", 1)
    assert "maximum context length is 2048" in row["error"]["message"]


def test_a_key_is_in_no_row(
    db: Engine,
    make_units: Callable[..., str],
    pumping: Callable[[Remote], Pump],
    remote: Make,
    capfd: pytest.CaptureFixture[str],
) -> None:
    make_units(None, "page")
    with recorded(Traits(key=KEY)) as locked:
        locked.plays = [Play(400, message=f"I do not like Bearer {KEY}")]
        (row,) = ended(db, pumping(remote(locked.url, remote_key=KEY)), "page")
    assert row["state"] == "dead" and "Bearer ***" in row["error"]["message"]
    with db.connect() as tx:
        for (name,) in tx.execute(text("select tablename from pg_tables where schemaname = 'omni'")).all():
            assert KEY not in str(tx.execute(text(f"select t::text from omni.{name} t")).all())
    said = capfd.readouterr()
    assert KEY not in said.out + said.err


def test_a_cancelled_job_lets_go_of_the_server_within_a_second(
    db: Engine, make_units: Callable[..., str], pumping: Callable[[Remote], Pump], remote: Make, server: RecordedServer
) -> None:
    job_id = make_units(None, "page")
    server.plays = [Play(hang=True)]
    pumping(remote())
    assert eventually(lambda: server.asked)
    began = time.monotonic()
    jobs.cancel(db, "acme", job_id)
    # It is asked twice a second what is not wanted any more; the rest is for a busy machine.
    assert server.left.wait(3) and time.monotonic() - began < 1.5
    assert eventually(lambda: outcomes(db, "page") == ["released"] or rows(db, "page")[0]["state"] == "dead")
    assert jobs.get(db, "acme", job_id)["state"] == "cancelled"


def test_a_unit_that_waits_for_an_answer_does_not_stand_still(
    db: Engine,
    parts: Parts,
    make_units: Callable[..., str],
    remote: Make,
    server: RecordedServer,
) -> None:
    """Progress moves while a server thinks, so nobody takes the unit for stuck."""
    make_units(None, "page")
    worker = workers.register(db, pool="gpu", host="h", pid=1, pid_started=1, version="t", backend=None)
    (unit,) = claims.claim(db, worker, Pool.GPU, 1)
    server.plays = [Play(hang=True)]
    context = infer_context(parts, remote(), unit)
    asking = threading.Thread(target=lambda: _ignore(lambda: infer.run(unit, context)), daemon=True)
    asking.start()
    assert eventually(lambda: server.asked)
    time.sleep(1.0)
    assert context.still_s() < 0.5 and 0 < context.progress < 1
    context.cancel.set()
    asking.join(2)
    assert not asking.is_alive()


def infer_context(parts: Parts, backend: Remote, unit: Any) -> Any:
    from workers.context import Context

    return Context(replace(parts, backend=backend), unit)


def _ignore(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        pass
