"""OpenAI's API over one resident model: models, completions, chat completions, health."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from omni_jobs.access import Gate
from omni_jobs.errors import NotFound, UsageError
from workers.engine.messages import wrong
from workers.media.sandbox import Limits
from workers.room import Room
from workers.serving import errors, submitting
from workers.serving.bodies import Bodies
from workers.serving.decoding import Watching
from workers.serving.door import Door
from workers.serving.exchange import Exchange
from workers.serving.replies import Reply, reply_of
from workers.serving.resident import Resident
from workers.serving.sources import Sources
from workers.serving.wanted import Body, Wanted, read_chat, read_text

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What is served, and how.

    Attributes:
        names: of the model; a request may leave out, or add, the part in front of the last slash.
        context: positions of prompt and answer.
        room: for decoded media.
        bodies: for what requests send.
        apart: thoughts come as `reasoning_content`, not inside `content`.
    """

    resident: Resident
    names: Sequence[str]
    context: int
    sources: Sources = field(default_factory=Sources)
    limits: Limits = field(default_factory=lambda: Limits(timeout_s=600.0))
    watching: Watching = field(default_factory=Watching)
    room: Room = field(default_factory=lambda: Room(16 << 30))
    bodies: Bodies = field(default_factory=Bodies)
    apart: bool = True

    def check_model(self, name: str) -> None:
        """
        Raises:
            NotFound: it is another one.
        """
        if name.rpartition("/")[2] not in {known.rpartition("/")[2] for known in self.names}:
            raise NotFound(f"expected one of {', '.join(self.names)}, got the model {name[:200]!r}", pointer="/model")


def create_app(serving: Serving, gate: Gate) -> FastAPI:
    """The app. Its owner closes the resident model."""
    app = FastAPI(title="omni-jobs serve-model", docs_url=None, redoc_url=None, openapi_url=None)
    errors.handle(app)
    app.add_middleware(Door, gate=gate)
    created = int(time.time())

    def described(name: str) -> dict[str, Any]:
        return {
            "id": name, "object": "model", "created": created, "owned_by": "omni-jobs",
            "max_model_len": serving.context,
        }  # fmt: skip

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [described(name) for name in serving.names]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        serving.check_model(name)
        return JSONResponse(described(name))

    @app.get("/health")
    async def health() -> Response:
        condition = serving.resident.condition()
        load = condition.load
        counts = {"running": load.running, "waiting": load.waiting} if load else {}
        status = {"status": condition.problem or "ok", "loaded": condition.loaded, "requests": condition.users}
        return JSONResponse({**status, **counts}, 503 if condition.problem else 200)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        def read(body: Body) -> Wanted:
            return read_chat(body, context=serving.context, watching=serving.watching)

        return await _answer(serving, request, read, "chatcmpl")

    @app.post("/v1/completions")
    async def completion(request: Request) -> Response:
        return await _answer(serving, request, lambda body: read_text(body, context=serving.context), "cmpl")

    return app


async def _answer(serving: Serving, request: Request, read: Callable[[Body], Wanted], prefix: str) -> Response:
    with contextlib.ExitStack() as held:
        body = await serving.bodies.read(request, held)
        # A gigabyte of media is read beside the other connections.
        wanted = await asyncio.to_thread(lambda: read(_object(body)))
        serving.check_model(wanted.model)
        exchange = Exchange(serving.resident, f"{prefix}-{uuid.uuid4().hex}")
        held.callback(exchange.close)
        submit = submitting.submit(exchange.id, wanted, serving.sources, serving.limits, serving.room)
        running = await exchange.begin(submit)
        reply = reply_of(exchange.id, wanted, running.tokenizer, apart=serving.apart)
        async with _watched(request, exchange):
            if not wanted.stream:
                async for _ in exchange.deltas():
                    pass
                return JSONResponse(reply.whole(exchange.result()))
            # What is refused, or fails before the first token, is still an answer with a status.
            chunks = _chunks(exchange, reply)
            first = await anext(chunks)
        return Events(held.pop_all(), _lines(first, chunks))


class Events(StreamingResponse):
    """A stream of events. Whoever leaves ends the request."""

    def __init__(self, held: contextlib.ExitStack, lines: AsyncIterator[bytes]) -> None:
        super().__init__(lines, headers=STREAM_HEADERS, media_type="text/event-stream")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)


async def _chunks(exchange: Exchange, reply: Reply) -> AsyncIterator[list[dict[str, Any]]]:
    opening = reply.opening()
    async for delta in exchange.deltas():
        if chunks := [*opening, *reply.push(delta.pieces)]:
            yield chunks
            opening = []
    yield [*opening, *reply.closing(exchange.result())]


async def _lines(first: list[dict[str, Any]], rest: AsyncIterator[list[dict[str, Any]]]) -> AsyncIterator[bytes]:
    yield b"".join(map(errors.line, first))
    try:
        async for chunks in rest:
            yield b"".join(map(errors.line, chunks))
    except Exception as error:
        errors.log(error)
        yield errors.line(errors.body_of(error))
    yield b"data: [DONE]\n\n"


@contextlib.asynccontextmanager
async def _watched(request: Request, exchange: Exchange) -> AsyncIterator[None]:
    """Closes the exchange when the client goes away meanwhile."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        exchange.close()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


def _object(body: bytes) -> Body:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"expected a JSON object, got what cannot be read: {str(error)[:100]}") from error
    if not isinstance(document, dict):
        raise wrong("", "a JSON object", document)
    return document
