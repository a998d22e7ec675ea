"""What a job is, and how it moves. Pure: no SQL, no clock, no I/O.

A job has sources; every piece of work on a source is a unit. The database enforces the same moves
(`migrations/`), and a test compares the two tables.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"  # nobody has claimed a unit of it yet; the first claim moves it on
    RUNNING = "running"  # `settle` moves it out when its last phase is done
    SUCCEEDED = "succeeded"  # everything is answered
    PARTIAL = "partial"  # delivered, with gaps that `coverage` names
    FAILED = "failed"  # nothing to deliver; `error` says why
    CANCELLED = "cancelled"  # a user ended it

    @property
    def open(self) -> bool:
        return self in OPEN

    @property
    def fate(self) -> str:
        """As a sentence goes on: the job `has failed`, `is partial`, `was cancelled`."""
        match self:
            case JobState.CANCELLED:
                return "was cancelled"
            case JobState.SUCCEEDED | JobState.FAILED:
                return f"has {self.value}"
            case _:
                return f"is {self.value}"


OPEN = frozenset({JobState.QUEUED, JobState.RUNNING})


class Phase(StrEnum):
    PREPARE = "prepare"  # snapshot, probe, cut, canonical media
    MAP = "map"  # ask the backend, and what hangs on its answers (words, speakers)
    REDUCE = "reduce"  # one answer over all outputs of a source
    DELIVER = "deliver"  # rows, artifacts, manifest


class UnitState(StrEnum):
    READY = "ready"  # a claim moves it out, once `ready_at` has come
    RUNNING = "running"  # finish, fail, release or the reaper moves it out
    DONE = "done"
    DEAD = "dead"  # out of attempts; its error stays


class UnitKind(StrEnum):
    PREPARE = "prepare"
    SPAN = "span"
    CLIP = "clip"
    PAGE = "page"
    WORDS = "words"
    SPEAKERS = "speakers"
    REDUCE = "reduce"
    DELIVER = "deliver"


class Pool(StrEnum):
    CPU = "cpu"
    GPU = "gpu"
    IO = "io"


class Outcome(StrEnum):
    """How an attempt ended. Each is counted apart on its unit; `released` never counts against it."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # an exception with a name
    LOST = "lost"  # the worker went silent
    REJECTED = "rejected"  # a gate refused the answer
    RELEASED = "released"  # handed back: drain, cancel, a neighbour's crash


class Task(StrEnum):
    TRANSCRIBE = "transcribe"
    CAPTION = "caption"
    DOCUMENT = "document"


class Medium(StrEnum):
    AUDIO = "audio"
    VIDEO = "video"
    IMAGE = "image"
    DOCUMENT = "document"


POOL_OF: Mapping[UnitKind, Pool] = {
    UnitKind.PREPARE: Pool.CPU,
    UnitKind.SPAN: Pool.GPU,
    UnitKind.CLIP: Pool.GPU,
    UnitKind.PAGE: Pool.GPU,
    UnitKind.WORDS: Pool.CPU,
    UnitKind.SPEAKERS: Pool.CPU,
    UnitKind.REDUCE: Pool.GPU,
    UnitKind.DELIVER: Pool.IO,
}

PHASE_OF: Mapping[UnitKind, Phase] = {
    UnitKind.PREPARE: Phase.PREPARE,
    UnitKind.SPAN: Phase.MAP,
    UnitKind.CLIP: Phase.MAP,
    UnitKind.PAGE: Phase.MAP,
    UnitKind.WORDS: Phase.MAP,
    UnitKind.SPEAKERS: Phase.MAP,
    UnitKind.REDUCE: Phase.REDUCE,
    UnitKind.DELIVER: Phase.DELIVER,
}

# The moves the database allows; everything else it refuses.
JOB_MOVES: frozenset[tuple[JobState, JobState]] = frozenset(
    {
        (JobState.QUEUED, JobState.RUNNING),
        (JobState.QUEUED, JobState.CANCELLED),
        (JobState.QUEUED, JobState.FAILED),
        (JobState.RUNNING, JobState.SUCCEEDED),
        (JobState.RUNNING, JobState.PARTIAL),
        (JobState.RUNNING, JobState.FAILED),
        (JobState.RUNNING, JobState.CANCELLED),
        # Replay makes a new revision; the old result stays readable.
        (JobState.PARTIAL, JobState.RUNNING),
        (JobState.FAILED, JobState.RUNNING),
    }
)
UNIT_MOVES: frozenset[tuple[UnitState, UnitState]] = frozenset(
    {
        (UnitState.READY, UnitState.RUNNING),
        (UnitState.READY, UnitState.DONE),  # its holder was late, and nobody had replaced it
        (UnitState.READY, UnitState.DEAD),  # its job was cancelled or has failed
        (UnitState.RUNNING, UnitState.READY),
        (UnitState.RUNNING, UnitState.DONE),
        (UnitState.RUNNING, UnitState.DEAD),
        (UnitState.DEAD, UnitState.READY),
    }
)

# What these add, a result can do without: if one dies its answers are whole, and `coverage` notes what is not known.
ADDING = frozenset({UnitKind.SPEAKERS})

# How often a unit may end so before it is dead.
MAX_LOST = 3
MAX_FAILED = 3
BACKOFF_S = (2.0, 15.0, 60.0)


@dataclass(frozen=True, slots=True)
class Tally:
    """The units of one job and revision, counted for `next_phase`."""

    open: int  # ready or running, of the phase the job is in
    done: Mapping[UnitKind, int]
    dead: Mapping[UnitKind, int]
    sources_failed: int = 0  # sources that prepare could not read: they have no map units
    sources: int = 1
    gaps: int = 0  # entries of `coverage` that failed, known once delivered


@dataclass(frozen=True, slots=True)
class Step:
    """What `settle` does next: insert the units of a phase, or close the job."""

    phase: Phase | None = None
    close: JobState | None = None


def next_phase(phase: Phase, tally: Tally, *, strict: bool = False) -> Step | None:
    """Decide how a job moves on; None while units of its phase are open.

    Args:
        phase: the phase the job is in.
        tally: its units.
        strict: a gap fails the job (`on_gap: fail`), as soon as it is known.
    """
    if tally.open:
        return None
    match phase:
        case Phase.PREPARE:
            if tally.sources_failed >= tally.sources or (strict and tally.sources_failed):
                return Step(close=JobState.FAILED)
            return Step(phase=Phase.MAP)
        case Phase.MAP:
            answered = sum(tally.done.get(kind, 0) for kind in (UnitKind.SPAN, UnitKind.CLIP, UnitKind.PAGE))
            dead = sum(tally.dead.get(kind, 0) for kind in (UnitKind.SPAN, UnitKind.CLIP, UnitKind.PAGE))
            if dead and (strict or not answered):
                return Step(close=JobState.FAILED)
            return Step(phase=Phase.REDUCE)
        case Phase.REDUCE:
            return Step(phase=Phase.DELIVER)
        case Phase.DELIVER:
            if tally.dead.get(UnitKind.DELIVER, 0):
                return Step(close=JobState.FAILED)
            dead = sum(number for kind, number in tally.dead.items() if kind not in ADDING)
            if not (tally.gaps or tally.sources_failed or dead):
                return Step(close=JobState.SUCCEEDED)
            return Step(close=JobState.FAILED if strict else JobState.PARTIAL)


def tasks_for(medium: Medium, wanted: Iterable[str], *, has_audio: bool, has_video: bool) -> tuple[Task, ...]:
    """What `task: auto`, or a list of tasks, means for a source of this medium."""
    chosen = tuple(wanted)
    if chosen and chosen != ("auto",):
        return tuple(Task(name) for name in chosen)
    match medium:
        case Medium.AUDIO:
            return (Task.TRANSCRIBE,)
        case Medium.VIDEO:
            return ((Task.TRANSCRIBE,) if has_audio else ()) + ((Task.CAPTION,) if has_video else ())
        case Medium.IMAGE | Medium.DOCUMENT:
            return (Task.DOCUMENT,)
