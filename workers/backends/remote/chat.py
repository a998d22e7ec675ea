"""One question to whichever model server takes it: retries, refusals, and what each of them means.

| what comes | what it means |
| --- | --- |
| no connection, a broken or endless answer, a redirect, 408, 429, 5xx | it rests, another is asked, then `Away` |
| no answer within the time limit | `Away` at once: another try would take as long |
| 401, 403, 404 | `Away`: the settings are wrong, which is not the unit's fault |
| 400 that names a field we can do without | asked again without it |
| any other 4xx | `SourceError`: this input is refused |
| an answer that stops at its length limit, or at a filter | `Unusable`: asked again one rung up |
| a video of which it looks at some frames only | `Unavailable`: an administrator has to choose |
"""

import json
import math
import time
from typing import Any

from omni_jobs import telemetry
from omni_jobs.errors import ErrorType, SourceError, Unavailable
from omni_jobs.settings import Settings
from workers.backends.backend import Unusable
from workers.backends.remote import sampled, wire
from workers.backends.remote.http import Came, Http
from workers.backends.remote.servers import Away, Server, Servers
from workers.backends.remote.wire import OPTIONAL, Body, Reply

log = telemetry.get_logger()

ENOUGH = 0.9  # of the frames of a video must be looked at
LOOK_AGAIN_S = 30.0  # where they were not: somebody may have set it right
ATTEMPTS = 4  # at servers that do not answer, for one question
PATIENCE_S = 20.0  # for the first of them to have rested
BUSY = (408, 425, 429, 500, 502, 503, 504, 529)
MISCONFIGURED = {401: "the key", 403: "the key", 404: "the address or the model"}
GOOD_ENDS = ("stop", "", "eos", "end_turn")


class Chat:
    """The servers, and how they are asked. Lives in one event loop."""

    def __init__(self, settings: Settings, servers: Servers) -> None:
        self.servers = servers
        self._model, self._frames = settings.remote_model, settings.remote_frames
        self._http = Http(settings)

    async def close(self) -> None:
        await self._http.close()

    async def ask(self, body: Body, *, frames: int = 0) -> Reply:
        """The answer to one request, from whichever server takes it.

        Args:
            frames: of the video in it; 0: there is none.

        Raises:
            Unavailable: nobody answers now (`Away`), or whoever does leaves frames out.
            SourceError: this request is refused.
            Unusable: the answer is not whole.
        """
        for attempt in range(1, ATTEMPTS + len(OPTIONAL) + 1):
            async with self.servers.one(PATIENCE_S) as server:
                try:
                    if frames:
                        await self._require_frames(server, frames)
                    reply = await self._post(server, body)
                except Away as error:
                    self.servers.failed(server, error)
                    log.warning("remote.away", server=server.name, reason=str(error), attempt=attempt)
                    if attempt >= ATTEMPTS or not error.again:
                        raise
                    continue
            if reply is not None:
                return _whole(reply, body)
        raise SourceError(ErrorType.UNSUPPORTED, "the model server refuses one field of the request after the other")

    async def ask_at(self, server: Server, body: Body) -> Reply:
        """The answer of one server as it came, whole or not.

        Raises:
            Away: it does not answer.
            SourceError: it refuses the request.
        """
        while (reply := await self._post(server, body)) is None:
            pass
        return reply

    async def models_at(self, server: Server) -> list[dict[str, Any]]:
        """What `/models` of a server lists, each with its `id`.

        Raises:
            Away: it does not answer.
            SourceError: it refuses the request.
        """
        came = await self._http.send(server, "GET", "/models")
        complaint = self._complaint_of(came)
        _raise_if_away(server, came, complaint)
        if not came.is_success:
            raise SourceError(ErrorType.UNSUPPORTED, f"{server.name} refused /models: {complaint}")
        try:
            return [dict(one) for one in json.loads(came.content)["data"] if one.get("id")]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise Away(f"{server.name} has no list of models under {server.url}/models") from error

    async def _require_frames(self, server: Server, frames: int) -> None:
        """Find out once how many frames of a video a server looks at. Too few are no fault of any unit."""
        async with server.looking:
            seen, old = server.frames_seen, time.monotonic() - server.looked_at > LOOK_AGAIN_S
            if seen is None or (seen < ENOUGH * frames and old):
                seen = await sampled.frames_seen(lambda body: self.ask_at(server, body), self._model, self._frames)
                server.frames_seen, server.looked_at = (math.inf if seen is None else seen), time.monotonic()
            seen = server.frames_seen or 0.0
        if seen < ENOUGH * frames:
            few = f"looks at about {seen:.0f} of {frames} frames of a video"
            raise Unavailable(f"the model server {server.name} {few}: {sampled.REMEDY}")

    async def _post(self, server: Server, body: Body) -> Reply | None:
        """One try at one server; None when it is to be asked again without a field."""
        sent = {name: value for name, value in body.items() if name not in server.without}
        came = await self._http.send(server, "POST", "/chat/completions", sent)
        if came.is_success:
            return self._read(server, came)
        complaint = self._complaint_of(came)
        _raise_if_away(server, came, complaint)
        # The server is well, it only does not like what it was asked.
        self.servers.well(server)
        field = wire.refused_field(complaint, sent)
        if field is None:
            message = f"the model server {server.name} refused it ({came.status}): {complaint}"
            raise SourceError(ErrorType.UNSUPPORTED, message)
        server.without.add(field)
        log.warning("remote.without", server=server.name, field=field, reason=complaint)
        return None

    def _read(self, server: Server, came: Came) -> Reply:
        try:
            reply = wire.reply_of(came.content)
        except (ValueError, RecursionError) as error:
            raise Away(f"the model server {server.name} gave no chat completion: {error}", suspect=True) from error
        if reply.finish in ("abort", "error"):
            raise Away(f"the model server {server.name} gave up the request ({reply.finish})", suspect=True)
        self.servers.well(server)
        return reply

    def _complaint_of(self, came: Came) -> str:
        return self._http.scrubbed(wire.complaint_of(came.content))


def _raise_if_away(server: Server, came: Came, complaint: str) -> None:
    if what := MISCONFIGURED.get(came.status):
        raise Away(f"the model server {server.name} refuses {what} ({came.status}): {complaint}")
    if came.status in BUSY or came.status >= 500 or came.is_redirect:
        raise Away(
            f"the model server {server.name} answered {came.status}: {complaint}",
            retry_after_s=wire.retry_after_s(came.retry_after),
            suspect=came.status >= 500 and came.status != 503,
        )


def _whole(reply: Reply, body: Body) -> Reply:
    """The reply, if it ended by itself.

    Raises:
        Unusable: it was cut off, filtered, or calls a tool that nobody offered.
    """
    full = reply.answer_tokens is not None and reply.answer_tokens >= body["max_tokens"]
    if reply.finish == "length" or (not reply.finish and full):
        raise Unusable("length", f"the answer did not end within {body['max_tokens']} tokens")
    if reply.finish not in GOOD_ENDS:
        raise Unusable("ending", f"the answer ended by `{reply.finish[:40]}`")
    return reply
