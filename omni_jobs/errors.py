"""What can go wrong, as types.

    OmniError
     ├── SourceError        the file itself: unreadable, empty, encrypted, ... (a closed list, `ErrorType`)
     ├── UsageError         what the caller asked for: a bad option, an unknown job, a URI we do not take
     │    ├── NotFound
     │    ├── Conflict
     │    └── TooMany       more than may be open at once: later
     ├── Refused            not now, or not for you: no key, wrong host, server behind its schema
     ├── Unavailable        a part we depend on does not answer (database, broker, store): try again
     └── Damaged            an object that we keep is gone, or is not what was put: trying again is no use

`str(error)` is a sentence that a user may read: what was expected and what came.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class ErrorType(StrEnum):
    """Why a source, or a part of it, has no answer. This list is closed and part of the public contract."""

    UNREADABLE = "unreadable"
    EMPTY = "empty"
    ENCRYPTED = "encrypted"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    NO_AUDIO = "no_audio"
    NO_VIDEO = "no_video"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Problem:
    """An `ErrorType` with its sentence, as rows, results and the API carry it."""

    type: ErrorType
    message: str
    retryable: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def lost(cls, *, late: bool) -> "Problem":
        """Its worker went silent, or held it beyond the deadline."""
        if late:
            return cls(ErrorType.TIMEOUT, "the unit was not done within its time limit", retryable=True)
        return cls(ErrorType.CRASHED, "the worker that held the unit died or went silent", retryable=True)


class OmniError(Exception):
    """Base of everything raised on purpose."""


class SourceError(OmniError):
    """A source, or one unit of it, cannot be answered."""

    def __init__(self, type: ErrorType | str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.problem = Problem(ErrorType(type), message, retryable)

    @property
    def type(self) -> ErrorType:
        return self.problem.type


class UsageError(OmniError):
    """The request cannot be meant as it stands.

    Attributes:
        kind: the problem type of the API (`invalid`, `unsupported`, `not_found`, ...).
        pointer: JSON pointer to the field at fault, where there is one.
    """

    kind = "invalid"

    def __init__(self, message: str, *, pointer: str | None = None, kind: str | None = None) -> None:
        super().__init__(message)
        self.pointer = pointer
        if kind is not None:
            self.kind = kind


class NotFound(UsageError):
    kind = "not_found"


class Conflict(UsageError):
    kind = "conflict"


class TooMany(UsageError):
    """More than may be open at once.

    Attributes:
        retry_after_s: when to ask again.
    """

    kind = "too_many"

    def __init__(self, message: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Refused(OmniError):
    """Not allowed, or not in this state; the sentence says what would help."""


class Unavailable(OmniError):
    """A part we depend on does not answer; the same call may go through later."""


class Damaged(OmniError):
    """An object that we keep is gone, or is not what was put; the same call fails the same way."""


def problem_of(error: BaseException) -> Problem:
    """The `Problem` to store for any exception; what we did not expect is `internal` and may be tried again."""
    if isinstance(error, SourceError):
        return error.problem
    return Problem(ErrorType.INTERNAL, f"{type(error).__name__}: {error}"[:500], retryable=True)
