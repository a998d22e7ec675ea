"""The child process: takes its limits, imports one decoder, shuts the door, then looks at the source.

`python -m workers.media.child OPERATION SOURCE_FD RESULT_FD`, parameters as JSON on stdin; see `sandbox`.
"""

import errno
import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from typing import Any

from omni_jobs.errors import ErrorType, SourceError
from workers.media.wire import Message

OPERATIONS = ("streams", "audio", "scan", "frames", "document", "image")
REFUSED = ("open", "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "ctypes.dlopen")

# What libraries raise for bad files are errors of their own; these are mistakes of this code. PermissionError
# comes from `_shut`: something was not imported in time.
OUT_OF_MEMORY = ("malloc", "FzErrorLimit", "FzErrorSystem", "failed to map segment", "annot allocate memory")
OURS = (PermissionError, TypeError, AttributeError, NameError, KeyError, IndexError, AssertionError, ImportError)


def main() -> None:
    operation, source_fd, result_fd = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if operation not in OPERATIONS:
        raise SystemExit(f"expected one of {', '.join(OPERATIONS)}, got {operation}")
    # As an exception it could be lost in a callback of a decoder.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    settings = json.load(sys.stdin)
    limits: dict[str, int] = settings["limits"]
    _limit(limits)
    _end_with(os.getppid())
    results = os.fdopen(result_fd, "wb", buffering=0)
    send = _sender(result_fd)
    reserve = bytearray(4 << 20)  # given back when memory is out, so that there is room to say so
    try:
        module = importlib.import_module(f"workers.media.inside.{operation}")
        _shut(max(source_fd, result_fd))
        with os.fdopen(source_fd, "rb", buffering=0) as source:
            for message in module.run(source, {**settings["params"], "threads": limits["threads"]}):
                message.send(send)
        last = Message("done")
    except MemoryError:
        del reserve
        last = _too_large(limits["memory_bytes"])
    except SourceError as error:
        last = Message("error", {"type": error.type, "message": str(error)})
    except BrokenPipeError:
        os._exit(0)
    except Exception as error:
        last = _unexpected(error, limits["memory_bytes"])
    last.send(send)
    results.close()
    # Decoder threads may hang in what they were given; nothing is left to tidy up.
    os._exit(0)


def _sender(fd: int) -> Any:
    def write_all(data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    return write_all


def _limit(limits: dict[str, int]) -> None:
    memory, cpu_s = limits["memory_bytes"], limits["cpu_s"]
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _end_with(parent: int) -> None:
    """Leave when the parent is gone, even in the middle of a decode."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _shut(highest_fd: int) -> None:
    """From here on nothing can be opened: not by C code (no descriptor is free), not by Python (audit hook)."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest_fd + 1, highest_fd + 1))

    def refuse(event: str, args: object) -> None:
        if event.startswith(REFUSED):
            # `os.fdopen` of a descriptor that we already hold is announced as an open of a number.
            if event == "open" and isinstance(args, tuple) and isinstance(args[0], int):
                return
            raise PermissionError(f"{event} {args!r} is refused here")

    sys.addaudithook(refuse)


def _too_large(memory_bytes: int) -> Message:
    text = f"expected a file that decodes within {memory_bytes >> 20} MiB of memory, got a larger one"
    return Message("error", {"type": ErrorType.TOO_LARGE, "message": text})


def _unexpected(error: Exception, memory_bytes: int) -> Message:
    """The library's own words stay on stderr; the user gets a sentence."""
    words = f"{type(error).__name__}: {error}"
    print(words[:2000], traceback.extract_tb(error.__traceback__)[-1], file=sys.stderr, flush=True)
    if getattr(error, "errno", None) in (errno.ENOMEM, errno.EAGAIN) or any(sign in words for sign in OUT_OF_MEMORY):
        return _too_large(memory_bytes)
    if isinstance(error, OURS):
        text = f"decoding this file met an error of ours ({type(error).__name__})"
        return Message("error", {"type": ErrorType.INTERNAL, "message": text})
    text = f"expected a file this decoder can read, and it gave up on this one ({type(error).__name__})"
    return Message("error", {"type": ErrorType.UNREADABLE, "message": text})


if __name__ == "__main__":
    main()
