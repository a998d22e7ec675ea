"""Named places where a test makes a process die, fail or wait. Off unless `OMNI_FAILPOINTS` names one.

`OMNI_FAILPOINTS="deliver.put=kill; finish.saved=raise; prepare.cut=sleep:0.5"`. With `@N` after the name only the Nth
time counts: `deliver.put@3=kill`. An unknown name is an error, so that a test cannot miss its mark in silence.
"""

import os
import signal
import threading
import time

NAMES = frozenset(
    {
        "claim.taken",  # the claim is committed, nothing is begun
        "prepare.reserved",  # the snapshot's prefix has a row, nothing is put
        "prepare.copying",  # a piece of the source is read
        "prepare.copied",  # the snapshot is put, its row does not say so
        "prepare.kept",  # the snapshot is noted, nothing is cut
        "prepare.put",  # some canonical media are put
        "prepare.cut",  # all are put, nothing is finished
        "infer.answered",  # the backend has answered, nothing is stored
        "end.locked",  # jobs are locked
        "end.written",  # units are written
        "end.followed",  # follow-ups are inserted
        "settle.taken",  # one step is taken
        "end.saved",  # job rows and events are written, nothing is committed
        "end.committed",  # committed, nobody has been told
        "deliver.assembled",  # the result is made, nothing is put
        "deliver.put",  # some artifacts are put
        "deliver.verified",  # all are put and read back, nothing is finished
        "collect.deleted",  # objects are deleted, their rows stand
    }
)


class Injected(Exception):
    """Raised by a failpoint."""


def _parse(text: str) -> dict[str, tuple[int, str]]:
    armed: dict[str, tuple[int, str]] = {}
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        where, _, action = part.partition("=")
        name, _, times = where.partition("@")
        if name not in NAMES or action.partition(":")[0] not in ("kill", "raise", "sleep"):
            raise ValueError(f"expected NAME[@N]=kill|raise|sleep:SECONDS, with a known name, got {part!r}")
        armed[name] = (int(times or 0), action)
    return armed


_armed: dict[str, tuple[int, str]] = {}
_reached: dict[str, int] = {}
_lock = threading.Lock()


def arm(text: str) -> None:
    """Arm what `text` names, and nothing else."""
    _armed.clear()
    _reached.clear()
    _armed.update(_parse(text))


def reach(name: str) -> None:
    """The code is at this place. Off, this is a look at an empty dict."""
    if name in _armed:
        _act(name)


def _act(name: str) -> None:
    with _lock:
        times = _reached[name] = _reached.get(name, 0) + 1
    only, action = _armed[name]
    if only not in (0, times):
        return
    match action.partition(":"):
        case "kill", _, _:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # until the signal has come
        case "raise", _, _:
            raise Injected(name)
        case _, _, seconds:
            time.sleep(float(seconds))


arm(os.environ.get("OMNI_FAILPOINTS", ""))
