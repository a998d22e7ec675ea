"""One server at a time."""

import socket
from pathlib import Path

import pytest

from omni_jobs.embedded import server as server_module
from omni_jobs.embedded.home import Home
from omni_jobs.embedded.ports import LOOPBACK, free_ports
from omni_jobs.embedded.postgres import Postgres, forget_dead_postmaster
from omni_jobs.embedded.redis import Valkey
from omni_jobs.embedded.runtime import runtime_folder
from omni_jobs.embedded.s3 import SeaweedFS
from omni_jobs.embedded.server import PortTaken, Server
from omni_jobs.embedded.sweep import remove
from omni_jobs.errors import Unavailable

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("kind", [Postgres, Valkey, SeaweedFS])
def test_a_port_that_was_taken_meanwhile_is_told_apart(
    kind: type[Server], homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(homes / kind.__name__)
    home.create()
    with socket.create_server((LOOPBACK, 0)) as stranger:
        taken = stranger.getsockname()[1]
        monkeypatch.setattr(server_module, "free_ports", lambda count: [taken, *free_ports(count - 1)])
        runtime = runtime_folder()
        server = kind(home, runtime)
        server.start()
        try:
            with pytest.raises(PortTaken, match="already in use"):
                server.ready(timeout_s=20)
        finally:
            server.stop()
            remove((str(runtime),))
        assert not [scrap for scrap in server.scraps if scrap.exists()]


def test_a_server_that_ends_says_its_last_words(homes: Path) -> None:
    home = Home(homes / "broken")
    home.create()
    valkey = Valkey(home, homes / "run")
    valkey.start()
    valkey.ready()
    valkey.stop()
    (home / "valkey" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    valkey.start()
    with pytest.raises(Unavailable, match="manifest"):
        valkey.ready()


def test_only_a_dead_postmaster_is_forgotten(tmp_path: Path) -> None:
    lock = tmp_path / "postmaster.pid"
    lock.write_text("1\n/somewhere\n")
    forget_dead_postmaster(tmp_path)
    assert not lock.exists()
    forget_dead_postmaster(tmp_path)
