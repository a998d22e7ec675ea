"""Row 10: jobs are cancelled wherever they happen to be."""

import os
import random
import threading
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omni_jobs.errors import Conflict
from omni_jobs.store import jobs
from tests.faults.cluster import Cluster, cluster
from tests.faults.fake import Script
from tests.faults.load import p95
from tests.faults.report import Report

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(900)]

STOP_S = 1.0
LONG_S = 600.0
MOST_HELD = 20  # jobs of two spans: some of the 64 slots are left for the others


def test_a_cancelled_job_stops_wherever_it_is(scale: float, report: Report) -> None:
    total = round(500 * scale)
    with cluster() as made:
        made.start("maintain")
        for pool in ("cpu", "cpu", "gpu"):
            made.start(pool)
        made.start("io", failpoints="deliver.verified=sleep:0.6", fake_slots=2)
        sounds, ids = _spread(made, total)
        watch, chosen = Watch(made), random.Random(1)
        chosen.shuffle(ids)
        # Decoding does not last as long as the whole test.
        for job_id in sounds:
            ids.insert(chosen.randrange(total // 10), job_id)
        with ThreadPoolExecutor(4) as pool:
            for job_id in ids:
                pool.submit(watch.cancel, job_id)
                time.sleep(chosen.uniform(0, 0.16))
        waits_s = watch.done(30)
        cancelled = list(waits_s)
        states = made.wait(ids, timeout_s=60)
        started = time.monotonic()
        (later,) = made.submit([Script("later")])
        assert made.wait([later], timeout_s=60) == {"succeeded": 1}
        reused_s = time.monotonic() - started
        report.say(jobs=total, **states, caught=watch.caught)
        report.say(slowest_s=max(waits_s.values()), later_job_s=reused_s)
        report.bar("p95_s", p95(list(waits_s.values())), STOP_S)
        assert set(watch.caught) >= {"queued", "span", "prepare", "decode", "deliver"}
        assert set(states) <= {"cancelled", "succeeded"} and states["cancelled"] == len(cancelled)
        assert made.sql("select 1 from omni.results where job_id = any(%s)", cancelled) == []
        assert made.sql("select 1 from omni.segments where job_id = any(%s)", cancelled) == []
        assert made.sql("select 1 from omni.units where job_id = any(%s) and lost + failed > 0", cancelled) == []
        made.until(
            lambda: (
                made.sql(
                    "select count(*) as n from omni.jobs j join omni.blobs b using (job_id) "
                    "where j.state = 'cancelled' and b.kind <> 'source' and b.state <> 'dropped'"
                )
                == [{"n": 0}]
            ),
            30,
            "objects of cancelled jobs are left",
        )


def _spread(made: Cluster, total: int) -> tuple[list[str], list[str]]:
    """So many jobs, a share of them held at each place; those that decode real sound, and the others."""
    share, sound = total // 5, noise(made.folder / "in" / "noise.wav", 20 * 60)
    held = min(share, MOST_HELD)
    in_slots = [Script(f"slot-{n}", spans=2, span_s=LONG_S) for n in range(held)]
    delivering = [Script(f"deliver-{n}") for n in range(3 * share - held)]
    ids = made.submit([*in_slots, *delivering])
    sounds = [made.submit_file(sound) for _ in range(max(2, total // 100))]
    made.until(lambda: "deliver" in _running(made), 60, "nothing is delivered")
    ids += made.submit([Script(f"prepare-{n}", prepare_s=LONG_S) for n in range(share)])
    ids += made.submit([Script(f"queued-{n}") for n in range(total - len(ids) - len(sounds))])
    made.until(lambda: _decoding(made), 60, "nothing is decoded")
    return sounds, ids


def noise(path: Path, length_s: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        second = os.urandom(32_000)
        for _ in range(length_s):
            file.writeframes(second)
    return path


def _running(made: Cluster) -> set[str]:
    return {one["kind"] for one in made.sql("select distinct kind from omni.units where state = 'running'")}


def _decoding(made: Cluster) -> bool:
    query = """select 1 from omni.units u join omni.sources s using (source_id)
               where u.kind = 'prepare' and u.state = 'running' and s.name = 'noise.wav' and s.sha256 is not null"""
    return bool(made.sql(query))


class Watch:
    """Cancels jobs, and sees when each of them has stopped."""

    def __init__(self, made: Cluster) -> None:
        self._made = made
        self._lock = threading.Lock()
        self._asked: dict[str, float] = {}
        self._stopped: dict[str, float] = {}
        self.caught: dict[str, int] = {}
        self._all = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cancel(self, job_id: str) -> None:
        place = self._place(job_id)
        started = time.monotonic()
        try:
            jobs.cancel(self._made.db, self._made.settings.tenant, job_id)
        except Conflict:
            place = "too late"
        with self._lock:
            self.caught[place] = self.caught.get(place, 0) + 1
            if place != "too late":
                self._asked[job_id] = started

    def done(self, timeout_s: float) -> dict[str, float]:
        """Seconds from asking to the end of the last unit, by job; after all have been asked for."""
        self._all.set()
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"still running: {self._asked.keys() - self._stopped.keys()}"
        return {job_id: self._stopped[job_id] - at for job_id, at in self._asked.items()}

    def _place(self, job_id: str) -> str:
        found = self._made.sql(
            """select case when u.kind = 'prepare' and s.name = 'noise.wav' then 'decode' else u.kind end as kind
               from omni.units u left join omni.sources s using (source_id)
               where u.job_id = %s and u.state = 'running' limit 1""",
            job_id,
        )
        return found[0]["kind"] if found else "queued"

    def _run(self) -> None:
        while True:
            last = self._all.is_set()
            with self._lock:
                waiting = list(self._asked.keys() - self._stopped.keys())
            query = "select distinct job_id::text from omni.units where job_id = any(%s) and state = 'running'"
            running = {one["job_id"] for one in self._made.sql(query, waiting)} if waiting else set()
            now = time.monotonic()
            self._stopped |= {job_id: now for job_id in waiting if job_id not in running}
            if last and not running:
                return
            time.sleep(0.01)
