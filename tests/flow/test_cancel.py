"""Stopping work, and going on with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flow.conftest import Running, eventually
from tests.flow.test_kills import longer

pytestmark = pytest.mark.servers


def test_a_cancelled_job_stops_within_seconds_and_leaves_no_result(
    stack: Running, inputs: Path, tmp_path: Path
) -> None:
    job = stack.submit(longer(inputs / "two_cities.wav", tmp_path / "long.wav", 8), reuse=False)
    running = "select 1 from omni.units where job_id = %s and state = 'running' and kind = 'span'"
    eventually(lambda: stack.sql(running, job["id"]), 60)
    stack.client.cancel(job["id"])
    open_units = "select 1 from omni.units where job_id = %s and state in ('ready', 'running')"
    eventually(lambda: not stack.sql(open_units, job["id"]), 15)
    ended = stack.client.get(job["id"])
    assert (ended["state"], ended["formats"]) == ("cancelled", [])
    assert stack.sql("select count(*) as n from omni.results where job_id = %s", job["id"]) == [{"n": 0}]


def test_ctrl_c_leaves_the_job_running_and_the_same_command_goes_on_with_it(
    stack: Running, inputs: Path, tmp_path: Path
) -> None:
    path = longer(inputs / "two_cities.wav", tmp_path / "interrupted.wav", 3)
    command = [sys.executable, "-m", "omni_jobs.cli", "run", str(path), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OMNI_HOME": str(stack.folder / "home")}
    watching = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    job = eventually(
        lambda: stack.sql("select job_id from omni.jobs where name = %s and state = 'running'", path.name), 60
    )[0]["job_id"]
    time.sleep(0.5)
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=30)
    assert watching.returncode == 130 and str(job) in said and "go on" in said
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr
    jobs = stack.sql("select job_id from omni.jobs where name = %s", path.name)
    assert jobs == [{"job_id": job}]
    twice = stack.sql(
        """select u.kind from omni.units u join omni.attempts a using (unit_id)
        where u.job_id = %s and a.outcome = 'succeeded' group by u.unit_id having count(*) > 1""",
        job,
    )
    assert twice == [] and (tmp_path / "out" / "interrupted.srt").exists()
