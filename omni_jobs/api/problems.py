"""Errors as RFC 9457 problem+json: what went wrong, where in the request, and whether to try again."""

import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from omni_jobs.access import NoKey, WrongHost
from omni_jobs.api.schemas import Fault, Problem
from omni_jobs.errors import (
    Conflict,
    Damaged,
    NotFound,
    OmniError,
    Refused,
    SourceError,
    TooMany,
    Unavailable,
    UsageError,
)
from omni_jobs.intake.metadata import escaped
from omni_jobs.store.database import is_outage
from omni_jobs.telemetry import get_logger

MEDIA_TYPE = "application/problem+json"
TYPE = "https://omni-jobs.dev/problems/"
RETRY_AFTER_S = 2
# Whoever still sends a body that nobody wants is not listened to until its end.
UNREAD = {"Connection": "close"}

TITLES = {
    "invalid": "The request cannot be meant as it stands",
    "malformed": "The request cannot be read",
    "unsupported": "This is not taken",
    "not_found": "There is no such thing",
    "conflict": "This does not fit the state of things",
    "too_large": "This is too large",
    "too_many": "As many jobs are open as may be",
    "damaged": "A stored object is not what was put",
    "unauthorized": "A key is needed",
    "misdirected": "This is not the server for that name",
    "refused": "This is not allowed",
    "unavailable": "A part of the service does not answer",
    "internal": "The service failed",
}


class TooLarge(UsageError):
    kind = "too_large"


class Malformed(UsageError):
    """A body that cannot be read as what it says it is."""

    kind = "malformed"


class NotTaken(UsageError):
    """A media type, of the body or of the answer, that we do not have."""

    kind = "unsupported"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Invalid(UsageError):
    """Several faults at once."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults))
        self.faults = faults

    @classmethod
    def of(cls, error: ValidationError) -> "Invalid":
        return cls([Fault(pointer=pointer(one["loc"]), detail=one["msg"]) for one in error.errors(include_url=False)])


def problem(
    request: Request,
    status: int,
    kind: str,
    detail: str,
    *,
    faults: Iterable[Fault] = (),
    retryable: bool = False,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    body = Problem(
        type=TYPE + kind,
        title=TITLES.get(kind) or HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        # As it came: the URL that Starlette builds of it begins with what the caller says our name is.
        instance=request.scope["path"],
        errors=list(faults),
        retryable=retryable,
    )
    return JSONResponse(_sayable(body.model_dump()), status, dict(headers or {}), media_type=MEDIA_TYPE)


def _sayable(body: dict[str, Any]) -> dict[str, Any]:
    """Without the lone surrogates that a request may hold and no answer can."""

    def said(text: str) -> str:
        return text.encode("utf-8", "replace").decode()

    faults = [{name: said(text) for name, text in fault.items()} for fault in body["errors"]]
    return {**body, "detail": said(body["detail"]), "instance": said(body["instance"]), "errors": faults}


def of_error(request: Request, error: OmniError) -> JSONResponse:
    """The answer for an error that we raised on purpose."""
    detail = str(error)
    match error:
        case NoKey():
            return problem(request, 401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
        case WrongHost():
            return problem(request, 421, "misdirected", detail)
        case Refused():
            return problem(request, 403, "refused", detail)
        case Unavailable():
            return unavailable(request, detail)
        case Damaged():
            return problem(request, 500, "damaged", detail)
        case TooMany():
            headers = {"Retry-After": str(math.ceil(error.retry_after_s)), **UNREAD}
            return problem(request, 429, error.kind, detail, retryable=True, headers=headers)
        case Invalid():
            return problem(request, 422, error.kind, detail, faults=error.faults)
        case NotFound():
            return problem(request, 404, error.kind, detail)
        case Conflict():
            return problem(request, 409, error.kind, detail)
        case TooLarge():
            return problem(request, 413, error.kind, detail, headers=UNREAD)
        case Malformed():
            return problem(request, 400, error.kind, detail)
        case NotTaken():
            return problem(request, error.status, error.kind, detail)
        case UsageError():
            faults = [Fault(pointer=error.pointer, detail=detail)] if error.pointer else []
            return problem(request, 422, error.kind, detail, faults=faults)
        case SourceError():
            return problem(request, 422, error.type.value, detail, retryable=error.problem.retryable)
        case _:
            return problem(request, 500, "internal", detail)


def unavailable(request: Request, detail: str) -> JSONResponse:
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return problem(request, 503, "unavailable", detail, retryable=True, headers=headers)


def pointer(loc: Iterable[Any]) -> str:
    """A JSON pointer of pydantic's path."""
    return "".join("/" + escaped(str(part)) for part in loc)


def handle(app: FastAPI) -> None:
    """Answer every error of this app with a problem."""

    @app.exception_handler(OmniError)
    def ours(request: Request, error: OmniError) -> Response:
        return of_error(request, error)

    @app.exception_handler(RequestValidationError)
    def parameters(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        if any(one["loc"][:1] == ("path",) for one in found):
            return problem(request, 404, "not_found", f"nothing has the address {request.scope['path']}")
        faults = [Fault(pointer=pointer(one["loc"]), detail=one["msg"]) for one in found]
        return of_error(request, Invalid(faults))

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        kinds = {400: "malformed", 404: "not_found"}
        detail = str(error.detail)
        if error.status_code == 404:
            detail = f"nothing has the address {request.scope['path']}"
        kind = kinds.get(error.status_code, "invalid")
        return problem(request, error.status_code, kind, detail, headers=error.headers)

    @app.exception_handler(SQLAlchemyError)
    def database(request: Request, error: SQLAlchemyError) -> Response:
        if is_outage(error):
            return unavailable(request, "the database does not answer")
        if isinstance(error, StatementError):
            # They may hold a password.
            error.hide_parameters = True
        get_logger().error("api.failed", path=request.scope["path"], error=_cause(error), exc_info=error)
        return problem(request, 500, "internal", "the service failed; its log says why", retryable=True)

    @app.exception_handler(ClientDisconnect)
    def left(request: Request, error: ClientDisconnect) -> Response:
        # Nobody reads this.
        return problem(request, 400, "malformed", "the request was broken off")

    @app.exception_handler(Exception)
    def anything(request: Request, error: Exception) -> Response:
        get_logger().error("api.failed", path=request.scope["path"], error=type(error).__name__, exc_info=error)
        return problem(request, 500, "internal", "the service failed; its log says why", retryable=True)


def _cause(error: SQLAlchemyError) -> str:
    return type(error.orig if isinstance(error, DBAPIError) and error.orig else error).__name__
