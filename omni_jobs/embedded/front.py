"""Where the API of this stack is reached, and whether it is ready."""

import http.client
from dataclasses import dataclass

from omni_jobs.embedded.ports import LOOPBACK

# An address to bind that is none to connect to, and what to connect to instead.
EVERYWHERE = {"": LOOPBACK, "0.0.0.0": LOOPBACK, "::": "::1"}
PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Front:
    host: str
    port: int

    @classmethod
    def bound_to(cls, host: str, port: int) -> "Front":
        return cls(EVERYWHERE.get(host, host), port)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def ready(self) -> bool:
        # Not urllib: it would ask a proxy of the environment.
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
