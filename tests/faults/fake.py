"""Work that costs nothing: a source that says what it consists of, and a backend that works in steps of many units.

A source is a small JSON text, `Script`. Everything else is the product: snapshot, store, units, deliver.
"""

import hashlib
import json
import os
import signal
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from omni_jobs.errors import ErrorType, SourceError
from omni_jobs.job import UnitKind
from omni_jobs.options import Options
from omni_jobs.settings import Settings
from omni_jobs.store.claims import Claimed
from workers.answers import ReduceAnswer, SpanAnswer, SpokenSegment
from workers.backends.backend import Cancelled, Capabilities, Identity, Request, Stats, UnitAnswer
from workers.context import Context
from workers.cutting import Cutting, Prepared
from workers.flight import Flight
from workers.infer import media_of as real_media_of
from workers.inputs import RATE_HZ, Canonical, CanonicalAudio
from workers.media.probe import Probe
from workers.media.probe import probe as real_probe
from workers.media.sandbox import Limits
from workers.prepare import _cut as real_cut

SPAN_S = 10.0
ANSWER_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Script:
    """What a source does.

    Attributes:
        name: goes into every answer, so that answers cannot be mistaken for another's.
        spans: how many spans it is cut into.
        prepare_s, span_s: how long preparing it, and one of its spans, takes.
        poison: `kill`, `segv`, `fail`, `oom`, `hang` (its span alone), `freeze` (the step, and all that is in it) or
            empty: what its span number `at` does to the backend, or with `at = -1` its preparation to the worker.
        cured: a file; while it exists the poison has no effect.
        cost: how many times the usual is charged for each of its spans.
    """

    name: str
    spans: int = 1
    prepare_s: float = 0.0
    span_s: float = 0.02
    poison: str = ""
    at: int = 0
    cured: str = ""
    cost: float = 1.0

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Script":
        return cls(**json.loads(data))

    def strikes(self, at: int) -> str:
        return self.poison if self.at == at and not (self.cured and Path(self.cured).exists()) else ""


def strike(poison: str) -> None:
    """Do to this process what the poison says."""
    match poison:
        case "kill" | "segv":
            os.kill(os.getpid(), signal.SIGKILL if poison == "kill" else signal.SIGSEGV)
            time.sleep(60)
        case "fail":
            raise SourceError(ErrorType.INTERNAL, "the step failed", retryable=True)
        case "oom":
            raise MemoryError("out of memory: tried to allocate 2.00 GiB")
        case "freeze":
            time.sleep(3600)
        case _:
            pass


def probe(file: BinaryIO, limits: Limits, **more: Any) -> "Script | Probe":
    """What a source is: a script, or real media."""
    said = file.read(1)
    file.seek(0)
    if said != b"{":
        return real_probe(file, limits, **more)
    try:
        return Script.from_bytes(file.read())
    except ValueError as error:
        raise SourceError(ErrorType.UNREADABLE, "the file ends before the end it promises") from error


def cut(cutting: Cutting, unit: Claimed, context: Context, found: "Script | Probe", options: Options) -> Prepared:
    """In place of decoding: the units that the script asks for, with canonical media that hold the script."""
    if not isinstance(found, Script):
        return real_cut(cutting, unit, context, found, options)
    script = found
    until = time.monotonic() + script.prepare_s
    while time.monotonic() < until:
        time.sleep(0.01)
        context.report(0.1)
    strike(script.strikes(-1))
    length_s = script.spans * SPAN_S
    facts = {
        "medium": "audio",
        "container": "script",
        "duration_s": length_s,
        "pages": None,
        "tasks": ["transcribe"],
        "probe": {},
        "gaps": [],
        "speech": [(0.0, length_s)],
    }
    prepared = Prepared(facts)
    for position in range(script.spans):
        said = json.dumps({"script": asdict(script), "at": position}).encode()
        samples = np.frombuffer(said + b" " * (len(said) % 2), np.int16)
        start_s, end_s = position * SPAN_S, (position + 1) * SPAN_S
        where = {"start_s": start_s, "end_s": end_s, "speech": [[start_s, end_s]]}
        prepared.units.append(
            cutting._put(UnitKind.SPAN, position, CanonicalAudio(samples, start_s), where, SPAN_S * script.cost)
        )
    return prepared


def expected(script: Script, at: int) -> str:
    """The text that a span is answered with."""
    seed = hashlib.sha256(f"{script.name}/{at}".encode()).hexdigest()
    return f"{script.name} {at} " + (seed * (ANSWER_CHARACTERS // len(seed) + 1))[:ANSWER_CHARACTERS]


@dataclass(slots=True)
class Running:
    request: Request
    future: "Future[UnitAnswer]"
    script: Script | None
    at: int
    left_s: float
    entered: bool = False
    cancelled: bool = False


class Fake:
    """Many slots and one step thread, like an engine: what enters a step is in the flight record before it."""

    SLOTS = 64
    STEP_S = 0.005

    def __init__(self, settings: Settings, flight: Flight) -> None:
        self._flight = flight
        self._running: dict[str, Running] = {}
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._answered = 0
        threading.Thread(target=self._steps, name="steps", daemon=True).start()

    @staticmethod
    def identity_of(settings: Settings) -> Identity:
        return Identity("fake", {"all": "fake"}, "fake", {"span": 0.01})

    def identity(self) -> Identity:
        return self.identity_of(Settings())

    def capabilities(self) -> Capabilities:
        return Capabilities(frozenset({"span", "reduce"}), slots=int(os.environ.get("FAKE_SLOTS") or self.SLOTS))

    def submit(self, request: Request) -> "Future[UnitAnswer]":
        future: Future[UnitAnswer] = Future()
        script, at = None, 0
        if isinstance(request.media, CanonicalAudio):
            script, at = scripted(request.media)
        with self._lock:
            self._running[request.unit_id] = Running(request, future, script, at, script.span_s if script else 0.0)
        self._wanted.set()
        return future

    def cancel(self, unit_id: str) -> None:
        with self._lock:
            if (one := self._running.get(unit_id)) is not None:
                one.cancelled = True

    def progress(self, unit_id: str) -> float:
        one = self._running.get(unit_id)
        if one is None or one.script is None or one.script.strikes(one.at) == "hang":
            return 0.0
        return max(0.0, 1.0 - one.left_s / max(one.script.span_s, 1e-6))

    def stats(self) -> Stats:
        return Stats(len(self._running), 0, self._answered)

    def health(self) -> str:
        return ""

    def close(self) -> None:
        pass

    def _steps(self) -> None:
        begun = time.monotonic()
        while True:
            # Work takes its time, not its number of steps; a freeze is no work.
            passed_s, begun = min(time.monotonic() - begun, 0.1), time.monotonic()
            self._wanted.wait()
            with self._lock:
                batch = list(self._running.values())
                if not batch:
                    self._wanted.clear()
                    continue
            self._flight.step([one.request.unit_id for one in batch if not one.entered])
            for one in batch:
                one.entered = True
                self._step(one, passed_s)
            time.sleep(self.STEP_S)

    def _step(self, one: Running, passed_s: float) -> None:
        one.left_s -= passed_s
        try:
            poison = one.script.strikes(one.at) if one.script else ""
            if one.cancelled:
                raise Cancelled
            strike(poison)
            if one.left_s > 0 or poison == "hang":
                return
            self._end(one, self._answer(one), None)
        except Exception as error:
            self._end(one, None, error)

    def _end(self, one: Running, answer: UnitAnswer | None, error: Exception | None) -> None:
        with self._lock:
            del self._running[one.request.unit_id]
            self._answered += 1
        if error is not None:
            one.future.set_exception(error)
        else:
            assert answer is not None
            one.future.set_result(answer)

    def _answer(self, one: Running) -> UnitAnswer:
        if not isinstance(one.request.media, CanonicalAudio):
            return ReduceAnswer()
        if one.script is None:
            return SpanAnswer(language="en", segments=[])
        start_s = one.request.media.start_s
        segment = SpokenSegment(start_s=start_s, end_s=start_s + SPAN_S, text=expected(one.script, one.at))
        return SpanAnswer(language="en", segments=[segment])


def scripted(media: CanonicalAudio) -> tuple[Script | None, int]:
    """The script that canonical media hold, and the number of the span; None of real sound."""
    data = media.samples.tobytes()
    if not data.startswith(b'{"script"'):
        return None, 0
    said = json.loads(data)
    return Script(**said["script"]), said["at"]


# The length of a fake span's sound is that of its script, not of its time: the real slicing would cut it.
def media_of(unit: Claimed, context: Context) -> Canonical:
    data = context.parts.blobs.get(unit.input["blob"])
    if hashlib.sha256(data).hexdigest() != unit.input["sha256"]:
        raise SourceError(ErrorType.UNREADABLE, "the object store gave other bytes than were put", retryable=True)
    media = CanonicalAudio.from_bytes(data, unit.input["start_s"])
    return media if scripted(media)[0] is not None else real_media_of(unit, context)


assert RATE_HZ == 16_000
