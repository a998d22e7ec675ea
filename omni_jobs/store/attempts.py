"""How attempts end. Many end in one transaction, so that a busy worker pays for one commit, not for one each.

Whoever ends an attempt holds the unit's job; a claim never does. The generation is the fence: once another attempt has
taken the unit, nothing this one says is stored.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, Engine

from omni_jobs.errors import ErrorType, OmniError, Problem
from omni_jobs.failpoints import reach
from omni_jobs.job import BACKOFF_S, MAX_FAILED, MAX_LOST, Outcome, Pool, UnitKind, UnitState
from omni_jobs.store.database import jsonb, rows, run
from omni_jobs.store.locks import LockedJob
from omni_jobs.store.settle import locked
from omni_jobs.store.units import NewUnit, insert

# So often a process may die around a unit before it, too, runs with nothing beside it.
ALONE_AFTER_BESIDE = 2
InTransaction = Callable[[Connection, LockedJob], object]


class Fenced(OmniError):
    """Another generation holds, or has ended, this unit: the answer is not taken."""


class Held(Protocol):
    """What is needed of a claimed unit to end its attempt."""

    @property
    def unit_id(self) -> str: ...
    @property
    def job_id(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def kind(self) -> UnitKind: ...
    @property
    def position(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """One attempt and how it came out.

    Attributes:
        answer: of a success; of a rejection the answer that was refused, kept for want of a better one.
        follow: units to insert with a success; those whose `reuse_key` has an answer are taken over as done.
        also: further writes with a success, in the same transaction, given the locked job.
        last: the gate that refused has no other way of asking.
        alone: it was in question when a process died in company: next time nothing runs beside it.
        beside: a process died around it.
    """

    unit: Held
    outcome: Outcome
    answer: dict[str, Any] | None = None
    follow: Sequence[NewUnit] = ()
    also: InTransaction | None = None
    problem: Problem | None = None
    delay_s: float = 0.0
    last: bool = False
    alone: bool = False
    beside: bool = False


def end(db: Engine, endings: Sequence[Ending]) -> list[set[Pool] | Fenced]:
    """End attempts, and let their jobs move on, in one transaction. The same call twice is harmless.

    Returns:
        For each the pools that have got work, or why it was not taken.
    """
    said: list[set[Pool] | Fenced] = []
    with locked(db, [ending.unit.job_id for ending in endings]) as (tx, jobs):
        reach("end.locked")
        held = _held(tx, endings)
        written: list[dict[str, Any]] = []
        for ending in endings:
            job, state = jobs.get(ending.unit.job_id), held.get(ending.unit.unit_id)
            digest = _digest(ending.answer) if ending.outcome is Outcome.SUCCEEDED else ""
            if job is None or state is None:
                said.append(Fenced(f"unit {ending.unit.unit_id} is gone"))
            elif digest and (state["generation"], state["answer_digest"]) == (ending.unit.generation, digest):
                said.append(job.woken)  # a commit that got no answer, repeated
            elif not _may_end(ending, state):
                said.append(Fenced(f"unit {ending.unit.unit_id}: {ending.unit.generation} is no longer its generation"))
            elif job.open and job.revision == state["revision"]:
                written.append(_apply(tx, job, ending, state, digest))
                said.append(job.woken)
            else:
                written.append(_written(ending, "dead", problem=_closed(job), outcome=Outcome.RELEASED))
                said.append(Fenced(f"job {job.job_id} {job.state.fate}"))
        _write(tx, written)
        reach("end.written")
        _follow(
            tx,
            [
                (jobs[ending.unit.job_id], ending)
                for ending, answer in zip(endings, said, strict=True)
                if ending.outcome is Outcome.SUCCEEDED
                and not isinstance(answer, Fenced)
                # A repeated call has brought with it what it brings already.
                and held[ending.unit.unit_id]["state"] != UnitState.DONE.value
            ],
        )
        reach("end.followed")
    reach("end.committed")
    return said


def _held(tx: Connection, endings: Sequence[Ending]) -> dict[str, dict[str, Any]]:
    found = rows(
        tx,
        """
        select unit_id::text, revision, state, generation, answer_digest, lost, failed from omni.units
        where unit_id = any(cast(:ids as uuid[])) order by unit_id for no key update
        """,
        ids=[ending.unit.unit_id for ending in endings],
    )
    return {one["unit_id"]: one for one in found}


def _may_end(ending: Ending, state: dict[str, Any]) -> bool:
    """Its holder; one that was given up, and that nobody has replaced, may still bring an answer."""
    if state["generation"] != ending.unit.generation:
        return False
    late = state["state"] == "ready" and ending.outcome is Outcome.SUCCEEDED
    return state["state"] == "running" or late


def _apply(tx: Connection, job: LockedJob, ending: Ending, state: dict[str, Any], digest: str) -> dict[str, Any]:
    """What to write for an attempt of an open job."""
    job.start()
    named = {"unit": ending.unit.unit_id, "kind": ending.unit.kind.value, "position": ending.unit.position}
    problem = ending.problem
    error = problem.as_json() if problem else None
    match ending.outcome:
        case Outcome.SUCCEEDED:
            job.record("unit.done", **named)
            return _written(ending, "done", answer=ending.answer, digest=digest)
        case Outcome.RELEASED:
            return _written(ending, "ready", delay_s=ending.delay_s)
        case Outcome.REJECTED:
            job.record("unit.rejected", **named, error=error)
            return _written(ending, "dead" if ending.last else "ready", problem=problem, answer=ending.answer)
        case Outcome.FAILED:
            times = state["failed"] + 1
            again = problem is not None and problem.retryable and times < MAX_FAILED
            job.record("unit.failed", **named, times=times, error=error)
            delay_s = BACKOFF_S[min(times, len(BACKOFF_S)) - 1]
        case Outcome.LOST:
            times = state["lost"] + 1
            again = times < MAX_LOST
            job.record("unit.lost", **named, times=times)
            delay_s = BACKOFF_S[times - 1] if times > 1 else 0.0
    return _written(ending, "ready" if again else "dead", problem=problem, delay_s=delay_s)


def _written(
    ending: Ending,
    state: str,
    *,
    answer: dict[str, Any] | None = None,
    digest: str | None = None,
    problem: Problem | None = None,
    delay_s: float = 0.0,
    outcome: Outcome | None = None,
) -> dict[str, Any]:
    return {
        "unit_id": ending.unit.unit_id,
        "generation": ending.unit.generation,
        "outcome": (outcome or ending.outcome).value,
        "state": state,
        "answer": answer,
        "digest": digest,
        "error": problem.as_json() if problem else None,
        "delay_s": delay_s,
        "alone": ending.alone,
        "beside": int(ending.beside),
    }


# Objects of a success live from here on; those of any other attempt are left to the collector.
WRITE = """
with e as materialized (
  select * from jsonb_to_recordset(:written) as e(unit_id uuid, generation integer, outcome text, state text,
    answer jsonb, digest text, error jsonb, delay_s double precision, alone boolean, beside integer)
), ended as (
  update omni.units u set state = e.state, worker_id = null, error = e.error,
    answer = case e.outcome when 'succeeded' then e.answer else u.answer end,
    answer_digest = coalesce(e.digest, u.answer_digest),
    kept = case e.outcome when 'rejected' then coalesce(u.kept, e.answer) else u.kept end,
    rung = u.rung + (e.outcome = 'rejected')::integer,
    lost = u.lost + (e.outcome = 'lost')::integer,
    failed = u.failed + (e.outcome = 'failed')::integer,
    rejected = u.rejected + (e.outcome = 'rejected')::integer,
    released = u.released + (e.outcome = 'released')::integer,
    beside = u.beside + e.beside,
    alone = u.alone or e.alone or u.beside + e.beside >= :most_beside
      or u.lost + (e.outcome = 'lost')::integer >= :most_lost,
    progress = (e.state = 'done')::integer,
    ready_at = case e.state when 'ready' then now() + make_interval(secs => e.delay_s) else u.ready_at end,
    finished_at = case when e.state in ('done', 'dead') then now() end
  from e where u.unit_id = e.unit_id
), told as (
  update omni.attempts a set finished_at = now(), outcome = e.outcome, error = e.error
  from e where a.unit_id = e.unit_id and a.generation = e.generation
), refused as (
  update omni.sources s set error = e.error from e join omni.units u on u.unit_id = e.unit_id
  where e.state = 'dead' and u.kind = 'prepare' and s.source_id = u.source_id and s.error is null
)
update omni.blobs b set state = 'live', changed_at = now()
from e where e.outcome = 'succeeded' and b.unit_id = e.unit_id and b.generation = e.generation and b.state = 'writing'
"""


def _write(tx: Connection, written: list[dict[str, Any]]) -> None:
    if written:
        run(tx, WRITE, written=jsonb(written), most_beside=ALONE_AFTER_BESIDE, most_lost=MAX_LOST - 1)


def _follow(tx: Connection, answered: Sequence[tuple[LockedJob, Ending]]) -> None:
    """What answers bring with them."""
    for job, ending in answered:
        if ending.also is not None:
            ending.also(tx, job)
    insert(tx, [(job, ending.follow) for job, ending in answered])


def _digest(answer: dict[str, Any] | None) -> str:
    return hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()


def _closed(job: LockedJob) -> Problem:
    return Problem(ErrorType.INTERNAL, f"its job {job.state.fate}")


def finish(
    db: Engine,
    unit: Held,
    answer: dict[str, Any] | None,
    *,
    follow: Iterable[NewUnit] = (),
    also: InTransaction | None = None,
) -> set[Pool]:
    """Store one answer.

    Returns:
        The pools that have new work.

    Raises:
        Fenced: the unit was taken over, or ended otherwise.
    """
    (said,) = end(db, [Ending(unit, Outcome.SUCCEEDED, answer, tuple(follow), also)])
    if isinstance(said, Fenced):
        raise said
    return said


def fail(db: Engine, unit: Held, problem: Problem) -> None:
    """An error: back with a delay, or dead when it cannot or may no longer be retried."""
    end(db, [Ending(unit, Outcome.FAILED, problem=problem)])


def reject(db: Engine, unit: Held, answer: dict[str, Any], problem: Problem, *, last: bool) -> None:
    """A gate refused the answer: ask again one rung up; on the last rung the unit is dead, its best answer kept."""
    end(db, [Ending(unit, Outcome.REJECTED, answer, problem=problem, last=last)])


def release(db: Engine, unit: Held, *, delay_s: float = 0.0) -> None:
    """Hand a unit back untried: drain, cancel, no room. It costs the unit nothing."""
    end(db, [Ending(unit, Outcome.RELEASED, delay_s=delay_s)])
