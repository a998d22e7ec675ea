"""Free ports on the loopback address."""

import random
import socket
from contextlib import ExitStack
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST = 15_000
TRIES = 1_000


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on now; another process may still take one, so callers retry.

    They lie below the kernel's own range. In it an outgoing connection could take the port before the server does;
    even our own: connecting to a silent port of that range, again and again, ends in a connection to itself.
    """
    with ExitStack() as held:
        ports: list[int] = []
        for _ in range(TRIES):
            if len(ports) == count:
                return ports
            probe = held.enter_context(socket.socket())
            try:
                probe.bind((LOOPBACK, _candidate()))
            except OSError:
                continue
            ports.append(probe.getsockname()[1])
    raise OSError(f"no {count} free ports on {LOOPBACK}")


def is_free(host: str, port: int) -> bool:
    """Whether a server could bind this address now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As servers do: a connection that just ended is no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _candidate() -> int:
    """A port below the ephemeral range, or 0 (the kernel chooses) when there is no room below it."""
    try:
        ceiling = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
    return random.randrange(LOWEST, ceiling) if ceiling > LOWEST + TRIES else 0
