"""Bodies of requests: read within a limit for each and one for all that are held, from the first byte to the answer."""

from contextlib import ExitStack

from starlette.requests import Request

from omni_jobs.errors import TooMany
from workers.serving.errors import TooLarge


class Bodies:
    """Belongs to one event loop.

    Attributes:
        held_bytes: of all requests that are read or answered now.
    """

    def __init__(self, most_bytes: int = 1 << 30, most_held_bytes: int = 4 << 30) -> None:
        """
        Args:
            most_bytes: of one.
            most_held_bytes: of all.
        """
        self._most_bytes, self._most_held_bytes = most_bytes, most_held_bytes
        self.held_bytes = 0

    async def read(self, request: Request, held: ExitStack) -> bytes:
        """The body; it counts until `held` is closed.

        Raises:
            TooLarge: more than one may have.
            TooMany: more than all may have, at this moment.
        """
        promised = request.headers.get("content-length", "0")
        if promised.isdecimal():
            self._check(int(promised), int(promised))
        body = bytearray()
        held.callback(lambda: self._add(-len(body)))
        async for piece in request.stream():
            self._check(len(body) + len(piece), len(piece))
            body += piece
            self._add(len(piece))
        return bytes(body)

    def _check(self, size_bytes: int, more_bytes: int) -> None:
        if size_bytes > self._most_bytes:
            raise TooLarge(f"expected a request of at most {self._most_bytes} bytes, got more")
        if self.held_bytes + more_bytes > self._most_held_bytes:
            raise TooMany(f"expected requests of at most {self._most_held_bytes} bytes at once, got more")

    def _add(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes
