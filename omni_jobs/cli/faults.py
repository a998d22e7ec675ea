"""How a command fails: one line on stderr, an exit status, and a document where `--json` asks for one."""

import os
import sys
import traceback
from dataclasses import dataclass
from typing import Any

from typer.exceptions import TyperException

from omni_jobs.cli.reader import SqlError
from omni_jobs.cli.terminal import plain, plain_lines
from omni_jobs.errors import Conflict, Damaged, OmniError, Refused, SourceError, TooMany, Unavailable, UsageError

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class Interrupted(OmniError):
    """Ctrl-C. Not KeyboardInterrupt, which typer would turn into a bare exit status."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind`: the `type` of the document."""

    error: BaseException
    kind: str
    message: str
    status: int = FAILED

    @property
    def document(self) -> dict[str, Any]:
        retryable = isinstance(self.error, Unavailable | TooMany)
        return {"error": {"type": self.kind, "message": self.message, "retryable": retryable}}

    def say(self) -> int:
        """Prints the line; returns the status."""
        if os.environ.get("OMNI_DEBUG") == "1":
            traceback.print_exception(self.error)
        # These quote a statement, or a log.
        own_lines = isinstance(self.error, SqlError | Unavailable | Refused)
        print(f"error: {(plain_lines if own_lines else plain)(self.message)}", file=sys.stderr, flush=True)
        return self.status


def fault_of(error: BaseException) -> Fault:
    # pydantic's words stand before the sentence that says what is wrong.
    text = str(error).replace("Value error, ", "")
    match error:
        case TyperException():
            return Fault(error, "invalid", error.format_message().replace("Value error, ", ""), error.exit_code)
        case Interrupted() | KeyboardInterrupt():
            return Fault(error, "interrupted", "interrupted", INTERRUPTED)
        case Conflict() | TooMany():
            return Fault(error, error.kind, text)
        case UsageError():
            return Fault(error, error.kind, text, USAGE)
        case SourceError():
            return Fault(error, error.type.value, text)
        case Refused():
            return Fault(error, "refused", text)
        case Unavailable():
            return Fault(error, "unavailable", text)
        case Damaged():
            return Fault(error, "damaged", text)
        case SqlError():
            return Fault(error, "sql", text, USAGE)
        case OmniError():
            return Fault(error, "internal", text)
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return Fault(error, "internal", f"{where}{error.strerror or error}")
        case _:
            return Fault(error, "internal", f"{type(error).__name__}: {error} (OMNI_DEBUG=1 shows where)")
