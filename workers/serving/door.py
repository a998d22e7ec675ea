"""The door: host and key are looked at before a route, or a byte of a body, is."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from omni_jobs import access
from omni_jobs.access import Gate, Refused
from omni_jobs.settings import Settings
from workers.serving import errors

UNGUARDED = ("/health",)


def gate_for(settings: Settings, host: str) -> Gate:
    """Who may come in where `host` is bound.

    On loopback a key is asked for where OMNI_API_KEY is set; that of a stack under OMNI_HOME is not ours there.

    Raises:
        Refused: others could reach the port, and there is no key.
    """
    gate = Gate.of(settings)
    if not (gate.key or access.is_loopback(host)):
        raise Refused(f"others can reach {host or 'every address'}, and nothing asks them for a key: set OMNI_API_KEY")
    return Gate(settings.api_key, gate.hosts) if access.is_loopback(host) else gate


class Door:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in UNGUARDED:
            headers = Headers(scope=scope)
            try:
                self._gate.check_host(headers.get("host"), headers.get("origin"))
                self._gate.check_key(headers)
            except Refused as error:
                await errors.answer(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
