"""The model servers: which of them gets the next request, and which rests because it did not answer.

Everything here runs in one event loop, so nothing is locked. A server that fails rests for a time that doubles; then
one request tries it, and only when that is answered does it get its full share again.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from omni_jobs.errors import Unavailable, UsageError

FIRST_REST_S, LONGEST_REST_S = 0.5, 30.0
LONGEST_RETRY_AFTER_S = 600.0
EXAMPLE = "http://gpu-1:8000/v1 3, http://gpu-2:8000/v1"


class Away(Unavailable):
    """A model server did not answer, or said that it cannot now.

    Attributes:
        retry_after_s: when to ask again, where it said so.
        suspect: it broke off or failed on this very request, which may be the reason.
        again: another try soon may be answered.
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, suspect: bool = False, again: bool = True
    ) -> None:
        super().__init__(message)
        self.retry_after_s, self.suspect, self.again = retry_after_s, suspect, again


@dataclass(slots=True, eq=False)
class Server:
    """One server.

    Attributes:
        url: base URL without a slash at its end, such as http://gpu-1:8000/v1.
        slots: requests it may have under way.
        without: fields of a request that it has refused, and is not sent again.
        frames_seen: of the longest video we send, as of `looked_at`; None: not known.
        looking: held while that is found out.
    """

    url: str
    weight: float
    slots: int
    running: int = 0
    failures: int = 0
    rest_until: float = 0.0
    reason: str = ""
    without: set[str] = field(default_factory=set)
    frames_seen: float | None = None
    looked_at: float = 0.0
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        """Host and port: what messages say of it."""
        return urlsplit(self.url).netloc


def servers_of(texts: Sequence[str], slots: int) -> list[Server]:
    """The servers of `OMNI_REMOTE_URLS`.

    Raises:
        UsageError: there are none, or one is no URL with a weight.
    """
    found = [_server(text, slots) for text in texts]
    if not found:
        raise UsageError(f"the backend `remote` needs OMNI_REMOTE_URLS, such as `{EXAMPLE}`")
    if twice := {one.url for one in found if sum(one.url == other.url for other in found) > 1}:
        raise UsageError(f"OMNI_REMOTE_URLS names {', '.join(sorted(twice))} more than once: give it a weight")
    return found


def _server(text: str, slots: int) -> Server:
    url, _, weight = text.strip().partition(" ")
    return Server(base_url(url), _weight(weight.strip()), slots)


def _weight(text: str) -> float:
    try:
        weight = float(text or 1)
    except ValueError:
        weight = 0.0
    if not (math.isfinite(weight) and weight > 0):
        raise UsageError(f"expected a weight above 0 after a URL of OMNI_REMOTE_URLS, got {text!r}")
    return weight


def base_url(text: str) -> str:
    """The base URL of an API; one without a path gets `/v1`.

    Raises:
        UsageError: it is none. What it says is not repeated where it might hold a password.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if "@" in text:
        raise UsageError("expected a model server's URL without user and password: the key goes into OMNI_REMOTE_KEY")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise UsageError(f"expected a model server's URL such as http://gpu-1:8000/v1, got {text[:100]!r}")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/models")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


class Servers:
    """Hands out servers: the one with the least under way for its weight, among those that are well."""

    def __init__(self, servers: Sequence[Server], clock: Callable[[], float] = time.monotonic) -> None:
        self.all = list(servers)
        self._clock = clock
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def one(self, patience_s: float) -> AsyncIterator[Server]:
        """A server for one request; waits for a free place, and `patience_s` for the first one to have rested.

        Raises:
            Away: all of them rest for longer.
        """
        end = self._clock() + patience_s
        while (server := self._best()) is None:
            await self._wait(end)
        server.running += 1
        try:
            yield server
        finally:
            server.running -= 1
            before, self._changed = self._changed, asyncio.Event()
            before.set()

    def well(self, server: Server) -> None:
        """It has answered."""
        server.failures, server.rest_until, server.reason = 0, 0.0, ""

    def failed(self, server: Server, error: Away) -> None:
        """It has not answered, or it wants to be left alone for a while."""
        server.failures += 1
        rest_s = min(FIRST_REST_S * 2 ** (server.failures - 1), LONGEST_REST_S)
        if error.retry_after_s is not None:
            rest_s = min(error.retry_after_s, LONGEST_RETRY_AFTER_S)
        server.rest_until = max(server.rest_until, self._clock() + rest_s)
        server.reason = str(error)
        server.frames_seen = None  # it may come back as another

    def health(self) -> str:
        """Empty when one of them is well, else what the last one said."""
        return "" if any(not one.failures for one in self.all) else self.all[-1].reason

    def _best(self) -> Server | None:
        now = self._clock()
        free = [one for one in self.all if one.rest_until <= now and one.running < (1 if one.failures else one.slots)]
        # One that has rested is tried first: at low load it would never be tried at all.
        return min(free, key=lambda one: (one.failures == 0, (one.running + 1) / one.weight), default=None)

    async def _wait(self, end: float) -> None:
        now = self._clock()
        rested = [one.rest_until for one in self.all if one.rest_until > now]
        if len(rested) == len(self.all) and min(rested) > end:
            soonest = min(self.all, key=lambda one: one.rest_until)
            raise Away(soonest.reason, retry_after_s=soonest.rest_until - now)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), min(rested) - now + 0.001 if rested else None)
