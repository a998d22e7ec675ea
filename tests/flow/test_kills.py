"""A worker of each kind is killed while it holds a unit: afterwards there is exactly one answer."""

import os
import signal
import time
import wave
from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import Running, eventually

pytestmark = pytest.mark.servers


def longer(source: Path, target: Path, times: int) -> Path:
    """A recording of `times` the length, so that there is time to kill."""
    with wave.open(str(source)) as short, wave.open(str(target), "wb") as long:
        long.setparams(short.getparams())
        frames = short.readframes(short.getnframes())
        for _ in range(times):
            long.writeframes(frames)
    return target


def kill_holder(stack: Running, job: str, pool: str, timeout_s: float = 60.0) -> dict[str, Any]:
    """SIGKILL the worker that runs a unit of this job and pool, as soon as there is one."""
    query = """
        select u.unit_id, u.kind, w.pid from omni.units u join omni.workers w using (worker_id)
        where u.job_id = %s and u.pool = %s and u.state = 'running'
          and u.claimed_at < now() - interval '50 ms' limit 1"""
    end = time.monotonic() + timeout_s
    import psycopg
    from psycopg.rows import dict_row

    with psycopg.connect(stack.state.database_url, row_factory=dict_row, autocommit=True) as connection:
        while time.monotonic() < end:
            if held := connection.execute(query, (job, pool)).fetchone():
                os.kill(held["pid"], signal.SIGKILL)
                return held
            time.sleep(0.001)
    raise AssertionError(f"no unit of pool {pool} ran: {stack.logs()}")


@pytest.mark.parametrize("pool", ["cpu", "gpu", "io"])
def test_a_killed_worker_costs_one_attempt_and_no_answer(
    stack: Running, inputs: Path, tmp_path: Path, pool: str
) -> None:
    path = longer(inputs / "two_cities.wav", tmp_path / f"{pool}.wav", 1 if pool == "io" else 2)
    for _ in range(5):
        job = stack.submit(path, reuse=False)
        killed = kill_holder(stack, job["id"], pool)
        ended = stack.done(job)
        assert ended["state"] == "succeeded", (ended, stack.logs())
        outcomes = stack.sql(
            "select outcome, count(*) as n from omni.attempts where unit_id = %s group by outcome", killed["unit_id"]
        )
        if {"outcome": "lost", "n": 1} in outcomes:
            break
        # The unit had ended between our look and the signal: nothing was lost, so nothing was tried. Again.
    assert sorted((one["outcome"], one["n"]) for one in outcomes) == [("lost", 1), ("succeeded", 1)]
    everything = stack.sql(
        """
        select u.kind, u.state, count(*) filter (where a.outcome = 'succeeded') as answers
        from omni.units u join omni.attempts a using (unit_id) where u.job_id = %s group by u.unit_id
        """,
        job["id"],
    )
    assert {(one["state"], one["answers"]) for one in everything} == {("done", 1)}
    results = stack.sql("select count(*) as n from omni.results where job_id = %s", job["id"])
    assert results == [{"n": 1}]
    eventually(lambda: stack.sql("select 1 from omni.workers where pool = %s and state = 'running'", pool), 30)


def test_workers_answer_remote_control(stack: Running) -> None:
    from omni_jobs.broker import make_app

    app = make_app(stack.stack.settings)
    answered = {name.split("-")[0] for reply in app.control.ping(timeout=3) for name in reply}
    app.close()
    assert answered == {"cpu", "gpu", "io"}
