import socket

import pytest

from omni_jobs.embedded.front import Front
from omni_jobs.embedded.ports import LOOPBACK, free_ports, is_free
from omni_jobs.embedded.programs import our_programs
from omni_jobs.embedded.supervisor import Supervisor
from omni_jobs.errors import Refused
from omni_jobs.settings import Settings


def test_free_ports_differ_and_can_be_bound() -> None:
    ports = free_ports(10)
    assert len(set(ports)) == 10
    assert all(is_free(LOOPBACK, port) for port in ports)


def test_a_taken_port_for_the_api_is_refused_before_anything_starts(tmp_path) -> None:
    with socket.create_server((LOOPBACK, 0)) as stranger:
        port = stranger.getsockname()[1]
        settings = Settings(home=tmp_path / "home", api_port=port)
        with pytest.raises(Refused, match=f"port {port} .* OMNI_API_PORT"):
            Supervisor(settings, programs=our_programs()).run()


@pytest.mark.parametrize(
    ("bound", "url"),
    [("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80"), ("10.0.0.1", "http://10.0.0.1:80")],
)
def test_an_address_that_means_everywhere_is_reached_on_this_machine(bound: str, url: str) -> None:
    assert Front.bound_to(bound, 80).url == url
