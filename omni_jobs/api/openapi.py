"""The published description: what FastAPI finds out, plus problems, the key, and the multipart body."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from omni_jobs.api.problems import MEDIA_TYPE, TITLES, TYPE
from omni_jobs.api.schemas import Fault, JobRequest, Problem, RetryRequest, UploadRequest

REF = "#/components/schemas/"
KEYED = ("/v1/", "/metrics")

# Which problems every route under /v1 may answer with, and those of single routes.
EVERYWHERE = {401: "unauthorized", 421: "misdirected", 422: "invalid", 503: "unavailable"}
AT = {
    ("/v1/jobs", "post"): {400: "malformed", 413: "too_large", 415: "unsupported", 429: "too_many"},
    ("/v1/jobs/{job_id}", "get"): {404: "not_found"},
    ("/v1/jobs/{job_id}/events", "get"): {404: "not_found"},
    ("/v1/jobs/{job_id}/result", "get"): {404: "not_found", 406: "unsupported", 409: "conflict", 500: "damaged"},
    ("/v1/jobs/{job_id}/cancel", "post"): {404: "not_found", 409: "conflict"},
    ("/v1/jobs/{job_id}/retry", "post"): {400: "malformed", 404: "not_found", 409: "conflict"},
    ("/v1/jobs/{job_id}", "delete"): {404: "not_found"},
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document of this app."""
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes, tags=app.openapi_tags
    )
    schemas = document["components"]["schemas"]
    _, found = models_json_schema(
        [(model, "validation") for model in (JobRequest, UploadRequest, RetryRequest, Problem, Fault)],
        ref_template=REF + "{model}",
    )
    schemas.update(found["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    }
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            _complete(path, verb, operation)
    document["paths"]["/v1/jobs"]["post"]["requestBody"] = _submission()
    document["paths"]["/v1/jobs/{job_id}/retry"]["post"]["requestBody"] = {
        "required": False,
        "content": {"application/json": {"schema": {"$ref": REF + "RetryRequest"}}},
    }
    document["paths"]["/metrics"]["get"]["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    document["paths"]["/v1/jobs/{job_id}/result"]["get"]["responses"]["200"]["content"] = {
        media_type: {"schema": {"type": "string"}}
        for media_type in ("application/json", "text/vtt", "application/x-subrip", "text/plain", "text/markdown")
    }
    return document


def _complete(path: str, verb: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    if not path.startswith(KEYED):
        responses.pop("422", None)
        return
    operation["security"] = [{"bearer": []}, {"header": []}]
    for status, kind in {**EVERYWHERE, **AT.get((path, verb), {})}.items():
        responses[str(status)] = _problem(status, kind)
    if (path, verb) == ("/v1/jobs", "post"):
        responses["200"] = {**responses["202"], "description": "The earlier job: replayed, or attached"}
        responses["202"]["description"] = "A new job"
    if verb == "get" and path in ("/v1/jobs/{job_id}", "/v1/jobs/{job_id}/result"):
        responses["304"] = {"description": "Still at the version in If-None-Match"}


def _problem(status: int, kind: str) -> dict[str, Any]:
    example = {
        "type": TYPE + kind,
        "title": TITLES[kind],
        "status": status,
        "detail": "a sentence that says what was expected and what came",
        "instance": "/v1/jobs",
        "errors": [{"pointer": "/options/dpi", "detail": "Input should be less than or equal to 300"}]
        if kind == "invalid"
        else [],
        "retryable": kind in ("unavailable", "too_many"),
    }
    content = {MEDIA_TYPE: {"schema": {"$ref": REF + "Problem"}, "example": example}}
    return {"description": TITLES[kind], "content": content}


def _submission() -> dict[str, Any]:
    form = {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "string", "contentMediaType": "application/octet-stream", "description": "The bytes."},
            "request": {"$ref": REF + "UploadRequest"},
            "attach": {"type": "boolean"},
        },
    }
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": REF + "JobRequest"},
                "examples": {
                    "object": {"summary": "An object, whatever it is", "value": {"uri": "s3://media/talk.mp4"}},
                    "pages": {
                        "summary": "Some pages of a file of the server",
                        "value": {
                            "uri": "file:///srv/papers/report.pdf",
                            "task": "document",
                            "options": {"pages": "1-3,7", "dpi": 200},
                            "metadata": {"case": "A-17"},
                        },
                    },
                },
            },
            "multipart/form-data": {"schema": form, "encoding": {"request": {"contentType": "application/json"}}},
        },
    }
