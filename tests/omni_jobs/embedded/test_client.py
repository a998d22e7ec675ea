"""Clients that share a stack which one of them starts."""

import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from omni_jobs.embedded.client import Stack, connect, stop
from omni_jobs.embedded.home import Home, running
from omni_jobs.errors import Refused, Unavailable
from omni_jobs.settings import Settings
from tests.waiting import eventually

from .conftest import REPOSITORY, processes_of, supervisor_command


@pytest.fixture
def settings(homes: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return Settings(home=homes / request.node.name[:40], tenant="acme")


@pytest.mark.servers
def test_two_clients_at_once_get_one_supervisor_that_ends_after_the_last_has_left(settings: Settings) -> None:
    stacks: list[Stack] = []
    lines: list[str] = []

    def come() -> None:
        stacks.append(connect(settings, command=supervisor_command("--linger", "1"), progress=lines.append))

    threads = [threading.Thread(target=come) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = stacks
    assert first.state.supervisor == second.state.supervisor
    assert any("Postgres" in line for line in lines)
    assert first.settings.database_url == first.state.database_url
    assert first.settings.api_key == Home(settings.home).key()
    assert b"OMNI_TENANT=acme" in Path(f"/proc/{first.state.children['api'].pid}/environ").read_bytes().split(b"\0")

    first.close()
    assert not eventually(lambda: running(settings.home) is None, timeout_s=1.5)
    second.close()
    assert eventually(lambda: running(settings.home) is None)
    assert eventually(lambda: not processes_of(settings.home), timeout_s=2)


def test_without_leave_to_start_one_the_command_is_named(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="omni-jobs up"):
        connect(settings, start=False)


def test_why_a_supervisor_did_not_start_is_said(settings: Settings) -> None:
    with pytest.raises(Unavailable, match="no room on the disk"):
        connect(settings, command=[sys.executable, "-c", "import sys; sys.exit('no room on the disk')"])


def test_a_taken_port_is_nothing_to_try_again(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = settings.model_copy(update={"api_port": other.getsockname()[1]})
        with pytest.raises(Refused, match="is taken: set OMNI_API_PORT"):
            connect(taken)


def test_there_is_nothing_to_stop_where_nothing_runs(settings: Settings) -> None:
    assert stop(settings.home) is False
    assert not os.path.exists(settings.home)
