import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omni_jobs.embedded import process as process_module
from omni_jobs.embedded.identity import Identity, alive, identify, signal_exactly
from omni_jobs.embedded.process import Process, rotate
from omni_jobs.embedded.upkeep import Upkeep
from tests.waiting import eventually

from .conftest import REPOSITORY

# A parent that starts a child as we do, says its pid and waits to be killed.
PARENT = """
import sys, time
from pathlib import Path
from omni_jobs.embedded.process import Process
child = Process("child", ["sleep", "60"], log_path=Path(sys.argv[1]), env={"PATH": "/usr/bin:/bin"})
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""


def make_process(tmp_path: Path, *argv: str) -> Process:
    return Process("child", argv, log_path=tmp_path / "child.log", env={"PATH": "/usr/bin:/bin"})


def test_a_child_dies_with_its_parent_however_that_dies(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as parent:
        assert parent.stdout is not None
        child = identify(int(parent.stdout.readline()))
        assert child is not None
        parent.kill()
    assert eventually(lambda: not alive(child))


def test_what_a_child_leaves_in_its_group_ends_with_it(tmp_path: Path) -> None:
    child = make_process(tmp_path, "sh", "-c", "sleep 60 & echo $!")
    child.start()
    assert child.wait(5) and child.ended() == 0
    assert eventually(lambda: identify(int(child.tail())) is None)


def test_its_exit_status_and_its_last_words_are_kept(tmp_path: Path) -> None:
    child = make_process(tmp_path, "sh", "-c", "echo before; echo why >&2; exit 7")
    assert child.run(5) == 7
    assert child.tail(1) == "why"


def test_a_recycled_pid_is_not_signalled() -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        now = identify(stranger.pid)
        assert now is not None
        assert not signal_exactly(Identity(now.pid, now.started + 1, now.boot), signal.SIGKILL)
        assert not signal_exactly(Identity(now.pid, now.started, "another boot"), signal.SIGKILL)
        assert alive(now)
        assert signal_exactly(now, signal.SIGKILL)


def test_a_zombie_is_not_alive() -> None:
    with subprocess.Popen(["true"]) as child:
        assert eventually(lambda: identify(child.pid) is None)
        assert os.path.exists(f"/proc/{child.pid}")


def test_what_keeps_ending_is_started_later_and_later(tmp_path: Path) -> None:
    child = make_process(tmp_path, "false")
    child.start()
    upkeep = Upkeep(child, now=0.0)
    waits, now = [], 0.0
    for _ in range(9):
        child.wait(5)
        planned = now
        while not upkeep.tend(now):
            now += 0.25
        waits.append(now - planned)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_long_log_is_turned_over_while_its_writer_appends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "LOG_LIMIT_BYTES", 10)
    child = make_process(tmp_path, "sh", "-c", "echo a line of the past; sleep 0.3; echo now")
    child.start()
    time.sleep(0.1)
    rotate(child.log_path)
    assert child.wait(5)
    assert child.log_path.read_text() == "now\n"
    assert (tmp_path / "child.log.1").read_text() == "a line of the past\n"
