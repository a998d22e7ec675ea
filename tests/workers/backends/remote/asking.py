"""Units as the worker hands them to the backend."""

from typing import Any

from omni_jobs.options import Options
from workers.backends.backend import Request, UnitAnswer
from workers.backends.remote import Remote
from workers.inputs import Canonical


def ask(backend: Remote, media: Canonical | None, *, rung: int = 0, unit_id: str = "u", **more: Any) -> UnitAnswer:
    return backend.submit(request(media, rung=rung, unit_id=unit_id, **more)).result(30)


def request(media: Canonical | None, *, rung: int = 0, unit_id: str = "u", **more: Any) -> Request:
    kind = {"CanonicalAudio": "span", "CanonicalClip": "clip", "CanonicalPage": "page"}.get(
        type(media).__name__, "reduce"
    )
    return Request(unit_id, kind, media, more.pop("options", Options().effective()), rung, more.pop("context", {}))


LONG = {
    "segments": [
        {"start_s": 10.0 * k, "end_s": 10.0 * k + 8, "text": f"Sentence {k} of the talk is about dams."}
        for k in range(12)
    ],
    "shots": [{"start_s": 5.0, "end_s": 9.0, "text": "A dam from above."}],
    "pages": [{"page": 4, "text": "The dam was\n\nbuilt in 1931."}],
}
