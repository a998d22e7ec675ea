"""One HTTP exchange with a model server, bounded in time and in bytes.

httpx's limit is for each piece of an answer: a server that sends a byte now and then would never be given up. And it
reads whatever comes, however much that is.
"""

import asyncio
import json
import ssl
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx2

from omni_jobs.access import is_loopback
from omni_jobs.settings import Settings
from workers.backends.remote.servers import Away, Server

CONNECT_TIMEOUT_S, WRITE_TIMEOUT_S = 5.0, 60.0
MOST_BYTES = 64 << 20  # of an answer: the longest is a hundredth of it


@dataclass(frozen=True, slots=True)
class Came:
    """A response, all of it."""

    status: int
    content: bytes
    retry_after: str | None = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_redirect(self) -> bool:
        return 300 <= self.status < 400


class Http:
    """Two persistent clients: proxies are for other machines. Lives in one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._key, self._timeout_s = settings.remote_key, settings.remote_timeout_s
        self._direct, self._proxied = (
            httpx2.AsyncClient(
                timeout=httpx2.Timeout(self._timeout_s, connect=CONNECT_TIMEOUT_S, write=WRITE_TIMEOUT_S, pool=None),
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
                follow_redirects=False,  # a key goes where it was meant to go
                trust_env=trust_env,
                verify=_trusted(trust_env),
            )
            for trust_env in (False, True)
        )

    async def close(self) -> None:
        await self._direct.aclose()
        await self._proxied.aclose()

    async def send(self, server: Server, method: str, path: str, body: dict[str, Any] | None = None) -> Came:
        """What a server answers, whatever that is.

        Raises:
            Away: it cannot be reached, breaks off, or does not come to an end.
        """
        data, headers = None, {}
        if body is not None:
            data = await asyncio.to_thread(lambda: json.dumps(body, separators=(",", ":")).encode())
            headers = {"Content-Type": "application/json"}
        client = self._direct if is_loopback(urlsplit(server.url).hostname or "") else self._proxied
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                client.stream(method, server.url + path, content=data, headers=headers) as response,
            ):
                return Came(response.status_code, await _all_of(server, response), response.headers.get("Retry-After"))
        except httpx2.ConnectTimeout as error:
            raise Away(f"the model server {server.name} cannot be reached: it does not answer") from error
        except (httpx2.TimeoutException, TimeoutError) as error:
            message = f"the model server {server.name} did not answer within {self._timeout_s:g} s"
            raise Away(message, suspect=True, again=False) from error
        except httpx2.ConnectError as error:
            raise Away(self.scrubbed(f"the model server {server.name} cannot be reached: {error}")) from error
        except httpx2.RequestError as error:
            what = self.scrubbed(f"the model server {server.name} broke off: {error or type(error).__name__}")
            raise Away(what, suspect=True) from error

    def scrubbed(self, text: str) -> str:
        """A server may repeat the key it was sent."""
        return text.replace(self._key, "***") if self._key else text


@cache
def _trusted(trust_env: bool) -> ssl.SSLContext:
    """Reading the certificates of the world takes longer than a request."""
    return httpx2.create_ssl_context(trust_env=trust_env)


async def _all_of(server: Server, response: httpx2.Response) -> bytes:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > MOST_BYTES:
            raise Away(f"the model server {server.name} answers without end: over {MOST_BYTES} bytes", suspect=True)
    return bytes(content)
