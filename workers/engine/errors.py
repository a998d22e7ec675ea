"""What the engine refuses, and how it fails.

OmniError
├── UsageError
│    └── NeverFits       a request larger than the engine; no waiting helps
├── RequestFailed        one request failed in the engine, the others went on
│    └── OutOfMemory     it was the newest when the device's memory ran out: later it may fit
└── Unavailable
├── EngineFailed    a step failed and took everything in flight with it; the engine takes nothing any more
└── EngineClosed    the engine was closed, or is closing
"""

from omni_jobs.errors import OmniError, Unavailable, UsageError


class NeverFits(UsageError, ValueError):
    """A request needs more than the whole engine has.

    Attributes:
        what: what it needs too much of, with its unit ("positions", "KV blocks", ...).
        need: how much it asks for.
        limit: how much there is.
    """

    kind = "too_large"

    def __init__(self, what: str, need: int, limit: int) -> None:
        super().__init__(f"expected at most {limit} {what} for one request, got {need}")
        self.what, self.need, self.limit = what, need, limit


class RequestFailed(OmniError):
    """Something that belongs to one request failed; `__cause__` says what."""


class OutOfMemory(RequestFailed):
    """The device's memory ran out, and this request was the newest."""


class EngineFailed(Unavailable):
    """A step failed and nobody can say whose fault it was."""


class EngineClosed(Unavailable):
    """The engine takes no requests any more."""
