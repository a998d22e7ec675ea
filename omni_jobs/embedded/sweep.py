"""What a supervisor that was killed may have left, ended and removed by the next one that holds the lock."""

import logging
import os
import shutil
import signal
import time
from pathlib import Path

from omni_jobs.embedded.home import Home
from omni_jobs.embedded.identity import (
    Identity,
    alive,
    environment_of,
    identify,
    pids,
    session_of,
    signal_exactly,
)
from omni_jobs.embedded.postgres import is_server_of
from omni_jobs.embedded.state import State

GONE_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


def sweep(home: Home) -> None:
    """Only whoever holds the lock of `home` may call this."""
    state = home.state()
    left = [*_children(state), *_grandchildren(home, state), *_backends(home)]
    for process in left:
        if signal_exactly(process, signal.SIGKILL):
            log.warning("sweep.killed pid=%d", process.pid)
    _wait(left)
    if state is not None:
        remove(state.scraps)
        home.clear_state()


def remove(scraps: tuple[str, ...]) -> None:
    """Removes files and folders, those that are ours."""
    for scrap in map(Path, scraps):
        try:
            if scrap.lstat().st_uid != os.geteuid() and os.geteuid() != 0:
                continue
            if scrap.is_dir() and not scrap.is_symlink():
                shutil.rmtree(scrap, ignore_errors=True)
            else:
                scrap.unlink()
        except OSError:
            continue


def _children(state: State | None) -> list[Identity]:
    return [child for child in state.children.values() if alive(child)] if state is not None else []


def _grandchildren(home: Home, state: State | None) -> list[Identity]:
    """What workers had started: still in a session of ours, with our home in their environment."""
    if state is None:
        return []
    sessions = {child.pid for child in state.children.values()}
    mark = b"OMNI_HOME=" + os.fsencode(home.path)
    found = [identify(pid) for pid in pids() if session_of(pid) in sessions and mark in environment_of(pid)]
    return [process for process in found if process is not None]


def _backends(home: Home) -> list[Identity]:
    """Postgres processes that outlived their postmaster: they would keep the next one from starting."""
    data = home / "postgres"
    found = [identify(pid) for pid in pids() if is_server_of(pid, data)]
    return [process for process in found if process is not None]


def _wait(processes: list[Identity]) -> None:
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while any(alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
