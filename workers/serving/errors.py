"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}` and a status.

| status | means |
| --- | --- |
| 400 | what is asked cannot be meant, is not done, or a medium of it cannot be read |
| 401, 403, 421 | key, host |
| 404 | no such model, no such address |
| 413 | the body, or a medium, is too large |
| 429 | as many requests, or bytes of them, as may be: later |
| 503 | the engine does not answer, or the server is closing |
"""

import json
import math
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from omni_jobs.access import NoKey, WrongHost
from omni_jobs.errors import ErrorType, NotFound, OmniError, Refused, SourceError, TooMany, Unavailable, UsageError
from omni_jobs.telemetry import get_logger
from workers.engine.errors import NeverFits, OutOfMemory

RETRY_AFTER_S = 5.0
INVALID, SERVER = "invalid_request_error", "server_error"


class TooLarge(UsageError):
    kind = "too_large"


def answer(error: Exception) -> JSONResponse:
    """The response for what went wrong."""
    status, kind, code = _class(error)
    headers: dict[str, str] = {}
    if status in (429, 503):
        wait_s = error.retry_after_s if isinstance(error, TooMany) else RETRY_AFTER_S
        headers["Retry-After"] = str(math.ceil(wait_s))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooLarge | TooMany):
        headers["Connection"] = "close"  # the rest of a body that nobody wants is not listened to
    return JSONResponse(body_of(error, kind, code), status, headers)


def body_of(error: Exception, kind: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The document; also what a stream ends with that has begun."""
    if kind is None:
        _, kind, code = _class(error)
    said = str(error) if isinstance(error, OmniError) else "the server failed; its log says why"
    message = said.encode("utf-8", "replace").decode()
    return {"error": {"message": message, "type": kind, "param": _param(error), "code": code}}


def log(error: Exception) -> None:
    """What is nobody's request's fault."""
    if _class(error)[0] >= 500:
        get_logger().error("serving.failed", error=type(error).__name__, said=str(error)[:300], exc_info=error)


def handle(app: FastAPI) -> None:
    """Answers every error of this app."""

    @app.exception_handler(Exception)
    @app.exception_handler(OmniError)
    def ours(request: Request, error: Exception) -> JSONResponse:
        log(error)
        return answer(error)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        said = f"nothing has the address {request.scope['path']}" if error.status_code == 404 else str(error.detail)
        body = {"error": {"message": said, "type": INVALID, "param": None, "code": None}}
        return JSONResponse(body, error.status_code, error.headers)

    @app.exception_handler(ClientDisconnect)
    def left(request: Request, error: ClientDisconnect) -> JSONResponse:
        return answer(UsageError("the request was broken off"))


def _class(error: Exception) -> tuple[int, str, str | None]:
    """Status, type and code."""
    match error:
        case NoKey():
            return 401, INVALID, "invalid_api_key"
        case WrongHost():
            return 421, INVALID, "misdirected"
        case Refused():
            return 403, INVALID, "refused"
        case TooMany():
            return 429, "rate_limit_error", "rate_limit_exceeded"
        case NotFound():
            return 404, INVALID, "model_not_found"
        case NeverFits():
            return 400, INVALID, "context_length_exceeded"
        case TooLarge():
            return 413, INVALID, "too_large"
        case UsageError():
            return 400, INVALID, error.kind
        case SourceError():
            return _of_source(error)
        case Unavailable() | OutOfMemory():
            return 503, SERVER, "unavailable"
    return 500, SERVER, "internal"


def _of_source(error: SourceError) -> tuple[int, str, str]:
    if error.problem.retryable:
        return 503, SERVER, "unavailable"
    if error.type is ErrorType.INTERNAL:
        return 500, SERVER, "internal"
    return (413 if error.type is ErrorType.TOO_LARGE else 400), INVALID, error.type.value


def _param(error: Exception) -> str | None:
    """`/messages/0/content` as OpenAI writes it: `messages[0].content`."""
    pointer = error.pointer if isinstance(error, UsageError) else None
    if not pointer:
        return None
    return re.sub(r"/(\d+)(?=/|$)", r"[\1]", pointer).replace("/", ".").lstrip(".")


def line(document: dict[str, Any]) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(document, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"
