"""The door: host and key are checked before a route, or a byte of a body, is looked at."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from omni_jobs.access import Gate, Refused
from omni_jobs.api.problems import of_error

# Anybody may ask whether we are well; a probe calls us by an address nobody listed.
UNGUARDED = ("/health/",)
KEYLESS = ("/docs", "/openapi.json")


class Door:
    """ASGI middleware; one line of `app.add_middleware`."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(UNGUARDED):
            request = Request(scope)
            try:
                self._check(scope["path"], request.headers)
            except Refused as error:
                await of_error(request, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Mapping[str, str]) -> None:
        self._gate.check_host(headers.get("host"), headers.get("origin"))
        if path not in KEYLESS:
            self._gate.check_key(headers)
