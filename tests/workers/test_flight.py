"""The record that outlives a process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from omni_jobs.store.database import new_id
from workers.flight import Flight, read

A, B, C = (new_id() for _ in range(3))


def test_one_alone_is_charged(tmp_path: Path) -> None:
    flight = Flight(tmp_path / "w")
    flight.enter(A)
    assert read(tmp_path / "w") == ((A,), True)


def test_newly_entered_are_in_question_and_else_all(tmp_path: Path) -> None:
    flight = Flight(tmp_path / "w")
    for unit in (A, B, C):
        flight.enter(unit)
    found = read(tmp_path / "w")
    assert found is not None and (set(found.suspects), found.alone) == ({A, B, C}, False)
    flight.step([B])
    assert read(tmp_path / "w") == ((B,), False)
    flight.step([])
    found = read(tmp_path / "w")
    assert found is not None and set(found.suspects) == {A, B, C}
    flight.leave(A)
    flight.leave(C)
    assert read(tmp_path / "w") == ((B,), True)


def test_slots_are_used_again(tmp_path: Path) -> None:
    flight = Flight(tmp_path / "w", slots=2)
    for _ in range(10):
        unit = new_id()
        flight.enter(unit)
        flight.leave(unit)
    assert read(tmp_path / "w") == ((), False)


def test_a_clean_end_leaves_no_record(tmp_path: Path) -> None:
    Flight(tmp_path / "w").close()
    assert read(tmp_path / "w") is None


def test_it_survives_a_sigkill(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys
from pathlib import Path
from workers.flight import Flight
flight = Flight(Path(sys.argv[1]))
flight.enter({A!r}); flight.enter({B!r}); flight.step([{B!r}])
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "w")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert read(tmp_path / "w") == ((B,), False)
