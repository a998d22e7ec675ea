"""Row 28: whatever is called in whatever order, and by whomever at once, jobs and units move as `job.py` says."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.errors import CheckViolation
from sqlalchemy import Engine

from omni_jobs.errors import Conflict, ErrorType, NotFound, Problem
from omni_jobs.job import JOB_MOVES, POOL_OF, UNIT_MOVES, JobState, Outcome, Pool, UnitKind, UnitState
from omni_jobs.store import attempts, claims, jobs, open_database, pools, reaper, results, sources, submissions, workers
from omni_jobs.store.attempts import Ending, Fenced
from omni_jobs.store.claims import Claimed
from omni_jobs.store.database import auto, rows, run
from omni_jobs.store.submissions import NewJob, NewSource
from omni_jobs.store.units import NewUnit
from omni_jobs.store.workers import Verdict
from tests.faults.report import Report

pytestmark = [pytest.mark.servers, pytest.mark.faults, pytest.mark.timeout(900)]

TENANT = "acme"
PASSING = Problem(ErrorType.INTERNAL, "it failed", retryable=True)
FINAL = Problem(ErrorType.UNREADABLE, "it cannot be read")

# What is seen of each move, kept by the database itself.
WATCH = """
create table public.moves (what text, old text, new text, primary key (what, old, new));
create function public.note_move() returns trigger language plpgsql as $$
begin
  insert into public.moves values (tg_table_name, old.state, new.state) on conflict do nothing;
  return null;
end $$;
create trigger watch after update of state on omni.jobs for each row when (old.state <> new.state)
  execute function public.note_move();
create trigger watch after update of state on omni.units for each row when (old.state <> new.state)
  execute function public.note_move();
"""

# Each finds what must not be.
NEVER = {
    "a running unit without exactly one open attempt": """
        select 1 from omni.units u where u.state = 'running' and 1 <> (
          select count(*) from omni.attempts a
          where a.unit_id = u.unit_id and a.finished_at is null and a.generation = u.generation)""",
    "an open attempt of a unit that does not run it": """
        select 1 from omni.attempts a join omni.units u using (unit_id)
        where a.finished_at is null and (u.state <> 'running' or a.generation <> u.generation)""",
    "an attempt not counted as a generation": """
        select 1 from omni.units u
        where u.generation <> (select count(*) from omni.attempts a where a.unit_id = u.unit_id)""",
    "a hole in the numbers of events": """
        select 1 from omni.jobs j where j.event_seq <> (
          select count(*) from omni.events e where e.job_id = j.job_id and e.seq between 1 and j.event_seq)
          or exists (select 1 from omni.events e where e.job_id = j.job_id and e.seq > j.event_seq)""",
    "a ready unit of a job that ended": """
        select 1 from omni.units u join omni.jobs j using (job_id)
        where u.state = 'ready' and j.state not in ('queued', 'running')""",
    "an open job with nothing to do": """
        select 1 from omni.jobs j where j.state in ('queued', 'running') and not exists (
          select 1 from omni.units u where u.job_id = j.job_id and u.revision = j.revision
            and u.state in ('ready', 'running'))""",
    "a delivered job without a result of its revision": """
        select 1 from omni.jobs j where j.state in ('succeeded', 'partial') and not exists (
          select 1 from omni.results r where r.job_id = j.job_id and r.revision = j.revision
            and j.result_revision = j.revision)""",
    "two successes of one unit": """
        select 1 from omni.attempts where outcome = 'succeeded' group by unit_id having count(*) > 1""",
    "more losses or failures than allowed": """
        select 1 from omni.units where lost > 3 or failed > 3""",
}


@pytest.fixture
def shared(file_database_url: str) -> Iterator[Engine]:
    """The database of this file, watched, and not waiting for its disk."""
    with psycopg.connect(file_database_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f'alter database "{name}" set synchronous_commit = off')  # type: ignore[arg-type]
        if connection.execute("select to_regclass('public.moves') is null").fetchone() == (True,):
            connection.execute(WATCH)
        connection.execute("truncate public.moves, omni.workers")
    db = open_database(file_database_url, size=24)
    clear(db)
    yield db
    db.dispose()


def clear(db: Engine) -> None:
    with db.begin() as tx:
        run(tx, "delete from omni.jobs")
        run(tx, "delete from omni.workers")


def make_job(db: Engine, n_sources: int = 1, *, summary: bool = False) -> str:
    files = tuple(NewSource(f"upload:{n}.wav", f"{n}.wav", f"k{n}", "0" * 64, 10) for n in range(n_sources))
    return submissions.insert(db, NewJob(TENANT, files, {"summary": summary}, reuse=False))[0]


def make_worker(db: Engine) -> str:
    return workers.register(db, pool="cpu", host="here", pid=1, pid_started=1, version="t", backend=None)


def moves_seen(db: Engine) -> dict[str, set[tuple[str, str]]]:
    with auto(db) as tx:
        found = rows(tx, "select what, old, new from public.moves")
    return {table: {(one["old"], one["new"]) for one in found if one["what"] == table} for table in ("jobs", "units")}


def assert_nothing_impossible(db: Engine) -> None:
    looks = [f"select $${what}$$ as what where exists ({query})" for what, query in NEVER.items()]
    with auto(db) as tx:
        assert rows(tx, " union all ".join(looks)) == []
    seen = moves_seen(db)
    assert seen["jobs"] <= {(old.value, new.value) for old, new in JOB_MOVES}
    assert seen["units"] <= {(old.value, new.value) for old, new in UNIT_MOVES}


def make_ready(db: Engine) -> None:
    """Back-off is over."""
    with db.begin() as tx:
        run(tx, "update omni.units set ready_at = now() where state = 'ready' and ready_at > now()")


def success(db: Engine, unit: Claimed, *, parts: int = 1, gap: bool = False, refuse: bool = False) -> Ending:
    """The answer that a handler of this kind would bring."""
    match unit.kind:
        case UnitKind.PREPARE if refuse:
            return Ending(unit, Outcome.SUCCEEDED, {}, also=lambda tx, job: sources.refuse(tx, unit.source_id, FINAL))  # type: ignore[arg-type]
        case UnitKind.PREPARE:
            return Ending(
                unit, Outcome.SUCCEEDED, {}, [NewUnit(UnitKind.SPAN, unit.source_id, n) for n in range(parts)]
            )
        case UnitKind.SPAN if parts > 1:
            return Ending(unit, Outcome.SUCCEEDED, {}, [NewUnit(UnitKind.WORDS, unit.source_id, unit.position)])
        case UnitKind.DELIVER:
            missing = {"position": 0, "medium": "speech", "state": "failed", "reason": "x", "start_s": 0, "end_s": 1}
            with auto(db) as tx:
                of = rows(tx, "select source_id::text from omni.sources where job_id = :id limit 1", id=unit.job_id)
            content = {of[0]["source_id"]: {"coverage": [{**missing, "page": None}]}} if gap and of else {}
            return Ending(
                unit,
                Outcome.SUCCEEDED,
                {},
                also=lambda _, job: results.commit(
                    job,
                    generation=unit.generation,
                    prefix=unit.prefix,
                    answered_by={},
                    artifacts=[],
                    content=content,
                ),
            )
        case _:
            return Ending(unit, Outcome.SUCCEEDED, {"text": unit.unit_id})


class Life(RuleBasedStateMachine):
    """Everything that may be called, in any order; claims that were lost long ago are tried again, too."""

    def __init__(self, db: Engine, done: Counter[str]) -> None:
        super().__init__()
        self.db, self.done = db, done
        clear(db)
        self.jobs: list[str] = []
        self.held: list[Claimed] = []
        self.crew = [make_worker(db), make_worker(db)]

    def _pick(self, pick: int) -> Claimed:
        """Mostly one of the last that were taken."""
        return self.held[-1 - pick % min(len(self.held), 4 if pick % 3 else 99)]

    def _is_taken(self, ending: Ending) -> bool:
        """Whether the rows as they are now say that this may be written."""
        with auto(self.db) as tx:
            found = rows(
                tx,
                """
                select u.state, u.generation, u.answer, u.revision = j.revision as current, j.state as job
                from omni.units u join omni.jobs j using (job_id) where unit_id = :id
                """,
                id=ending.unit.unit_id,
            )
        if not found or found[0]["generation"] != ending.unit.generation:
            return False
        success = ending.outcome is Outcome.SUCCEEDED
        if found[0]["state"] == "done":
            return success and found[0]["answer"] == ending.answer  # the same again
        open_to = ("running", "ready") if success else ("running",)
        return found[0]["state"] in open_to and found[0]["current"] and found[0]["job"] in ("queued", "running")

    def _end(self, ending: Ending) -> None:
        wanted = self._is_taken(ending)
        (said,) = attempts.end(self.db, [ending])
        assert isinstance(said, Fenced) != wanted, (ending, said)
        self.done["fenced" if isinstance(said, Fenced) else ending.outcome.value] += 1

    @initialize(n_sources=st.integers(1, 2), summary=st.booleans())
    def begin(self, n_sources: int, summary: bool) -> None:
        self.submit(n_sources, summary)

    @rule(n_sources=st.integers(1, 2), summary=st.booleans())
    def submit(self, n_sources: int, summary: bool) -> None:
        self.jobs.append(make_job(self.db, n_sources, summary=summary))

    @precondition(lambda self: self.jobs)
    @rule(first=st.integers(0, 2), room=st.integers(1, 4), crew=st.integers(0, 9))
    def claim(self, first: int, room: int, crew: int) -> None:
        worker = self.crew[crew % len(self.crew)]
        for pool in [*Pool, *Pool][first : first + 3]:
            taken = claims.claim(self.db, worker, pool, room) or claims.claim(self.db, worker, pool, 1, solo=True)
            if taken:
                assert all(POOL_OF[unit.kind] is pool for unit in taken)
                self.held += taken
                self.done["claimed"] += len(taken)
                return

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99), parts=st.integers(0, 3), gap=st.booleans(), refuse=st.booleans())
    def finish(self, pick: int, parts: int, gap: bool, refuse: bool) -> None:
        unit = self._pick(pick)
        self._end(success(self.db, unit, parts=parts, gap=gap, refuse=refuse))

    @rule()
    def finish_all(self) -> None:
        """So that jobs come to their end."""
        for pool in Pool:
            for unit in claims.claim(self.db, self.crew[0], pool, 8):
                self.held.append(unit)
                self._end(success(self.db, unit))

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99), final=st.booleans())
    def fail(self, pick: int, final: bool) -> None:
        unit = self._pick(pick)
        self._end(Ending(unit, Outcome.FAILED, problem=FINAL if final else PASSING))

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99), last=st.booleans())
    def reject(self, pick: int, last: bool) -> None:
        unit = self._pick(pick)
        self._end(Ending(unit, Outcome.REJECTED, {"bad": 1}, problem=PASSING, last=last))

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99))
    def release(self, pick: int) -> None:
        unit = self._pick(pick)
        self._end(Ending(unit, Outcome.RELEASED))

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 99), crew=st.integers(0, 9))
    def come_back_late(self, pick: int, crew: int) -> None:
        """It was taken from its holder, and from others since; now its holder answers."""
        unit = self._pick(pick)
        attempts.release(self.db, unit)
        make_ready(self.db)
        self.held += claims.claim(self.db, self.crew[crew % len(self.crew)], POOL_OF[unit.kind], 8)
        self._end(success(self.db, unit))

    @rule(crew=st.integers(0, 9), told=st.booleans(), suspects=st.integers(0, 3))
    def bury_a_worker(self, crew: int, told: bool, suspects: int) -> None:
        found = tuple(unit.unit_id for unit in self.held[-suspects:]) if suspects else ()
        gone = self.crew.pop(crew % len(self.crew))
        workers.bury(self.db, gone, Verdict(found, alone=suspects == 1) if told else None)
        self.crew.append(make_worker(self.db))

    @rule()
    def reap(self) -> None:
        for outcome, count in reaper.reap(self.db).items():
            self.done[f"reaped as {outcome.value}"] += count

    @rule()
    def wait(self) -> None:
        make_ready(self.db)

    @precondition(lambda self: self.jobs)
    @rule(pick=st.integers(0, 99), act=st.sampled_from([jobs.cancel, jobs.retry, jobs.retry, jobs.delete]))
    def ask(self, pick: int, act: Callable[[Engine, str, str], object]) -> None:
        job_id = self.jobs[pick % len(self.jobs)]
        try:
            act(self.db, TENANT, job_id)
            self.done[act.__name__] += 1
        except (Conflict, NotFound) as refused:
            self.done[type(refused).__name__] += 1

    @invariant()
    def nothing_impossible_is_there(self) -> None:
        self.done["looks"] += 1
        assert_nothing_impossible(self.db)


def test_any_order_of_calls_keeps_what_must_hold(shared: Engine, scale: float, report: Report) -> None:
    done: Counter[str] = Counter()
    run_state_machine_as_test(
        lambda: Life(shared, done),  # type: ignore[arg-type]
        settings=settings(
            max_examples=max(5, round(400 * scale)),
            stateful_step_count=30,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # to make a failure smaller takes an hour on a real server
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
    seen = moves_seen(shared)
    report.say(**dict(done.most_common()), job_moves=len(seen["jobs"]), unit_moves=len(seen["units"]))
    assert done["looks"] > 100 and done["fenced"] and done["succeeded"]


def pairs() -> list[tuple[str, str, str, bool]]:
    """(table, old, new, legal) of every pair of states."""
    of_jobs = [("jobs", old.value, new.value, (old, new) in JOB_MOVES) for old in JobState for new in JobState]
    of_units = [("units", old.value, new.value, (old, new) in UNIT_MOVES) for old in UnitState for new in UnitState]
    return [pair for pair in of_jobs + of_units if pair[1] != pair[2]]


def test_the_database_itself_refuses_every_other_move(shared: Engine, file_database_url: str, report: Report) -> None:
    job_id = make_job(shared)
    refused = 0
    with psycopg.connect(file_database_url, autocommit=True) as connection:
        for table, old, new, legal in pairs():
            put = f"update omni.{table} set state = %s where job_id = %s"
            connection.execute("set session_replication_role = replica")  # no triggers
            connection.execute(put, (old, job_id))  # type: ignore[arg-type]
            connection.execute("set session_replication_role = origin")
            try:
                connection.execute(put, (new, job_id))  # type: ignore[arg-type]
                assert legal, f"{table}: {old} -> {new} was let through"
            except CheckViolation:
                assert not legal, f"{table}: {old} -> {new} was refused"
                refused += 1
    report.say(pairs=len(pairs()), refused=refused)
    assert refused == sum(not legal for *_, legal in pairs()) > 20


def both(first: Callable[[], object], second: Callable[[], object]) -> list[object]:
    """Run two calls at the same moment; what each gave, or raised."""
    start = threading.Barrier(2)

    def go(call: Callable[[], object]) -> object:
        start.wait()
        try:
            return call()
        except (Fenced, Conflict, NotFound) as error:
            return error

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(go, (first, second)))


def test_of_two_at_once_one_wins(shared: Engine, scale: float, report: Report) -> None:
    """Two finishers with different answers, and a cancel against a finish, a claim and a failure."""
    worker, won = make_worker(shared), Counter[str]()
    for number in range(max(20, round(1000 * scale))):
        job_id = make_job(shared)
        race = number % 4
        if race == 3:
            said = both(
                lambda job_id=job_id: jobs.cancel(shared, TENANT, job_id),
                lambda: claims.claim(shared, worker, Pool.CPU, 1),
            )
            won["cancel against claim"] += bool(said[1])
            assert said[0] is True
            for unit in said[1] if isinstance(said[1], list) else ():
                with pytest.raises(Fenced):
                    attempts.finish(shared, unit, {})
        else:
            (unit,) = claims.claim(shared, worker, Pool.CPU, 1)
            answers: list[Callable[[], object]] = [
                lambda unit=unit: attempts.finish(
                    shared, unit, {"n": 1}, follow=[NewUnit(UnitKind.SPAN, unit.source_id)]
                ),
                lambda unit=unit: attempts.finish(
                    shared, unit, {"n": 2}, follow=[NewUnit(UnitKind.SPAN, unit.source_id)]
                ),
                lambda job_id=job_id: jobs.cancel(shared, TENANT, job_id),
                lambda unit=unit: attempts.fail(shared, unit, FINAL),
            ]
            first, second = ((0, 1), (0, 2), (3, 2))[race]
            said = both(answers[first], answers[second])
            if race == 0:
                assert sum(isinstance(one, Fenced) for one in said) == 1, said
                won["first finisher"] += not isinstance(said[0], Fenced)
            elif race == 1:
                assert said[1] is True  # a job that goes on can be cancelled; one that is cancelled takes no answer
                won["finish before cancel"] += not isinstance(said[0], Fenced)
            else:
                assert (said[1] is True) != isinstance(said[1], Conflict)
                won["failure before cancel"] += isinstance(said[1], Conflict)
        jobs.delete(shared, TENANT, job_id)
    report.say(**won)
    assert_nothing_impossible(shared)


def test_a_storm_of_everything_has_no_deadlock(shared: Engine, scale: float, report: Report) -> None:
    """Eight threads, each with batches over many jobs in its own order; a deadlock is an error of a statement."""
    rounds, threads = round(10_000 * scale), 8
    crew = [make_worker(shared) for _ in range(threads)]
    names = [make_job(shared, 2) for _ in range(20)]
    lock, done = threading.Lock(), Counter[str]()

    def storm(number: int) -> None:
        dice, held = random.Random(number), list[Claimed]()
        for _ in range(rounds // threads):
            name = step(dice, number, held)
            with lock:
                done[name] += 1

    def step(dice: random.Random, number: int, held: list[Claimed]) -> str:
        match dice.randrange(12):
            case 0 | 1 | 2:
                held += claims.claim(shared, crew[number], dice.choice(list(Pool)), dice.randint(1, 6))
                return "claims"
            case 3 | 4 | 5 | 6 if held:
                dice.shuffle(held)
                batch, held[:] = held[:6], held[6:]
                attempts.end(shared, [ending(dice, unit) for unit in batch])
                return "batches ended"
            case 7:
                workers.beat(
                    shared, crew[number], {unit.unit_id: (unit.generation, dice.random()) for unit in held}, {}
                )
                return "beats"
            case 8:
                if dice.random() < 0.2:
                    workers.bury(shared, crew[number], Verdict(tuple(unit.unit_id for unit in held[:2])))
                    crew[number] = make_worker(shared)
                reaper.reap(shared)
                return "reaps"
            case 9:
                make_ready(shared)
                pools.explain(shared, 30.0)
                pools.regulate(shared, ready_s=1e9, ready_bytes=1 << 40)
                return "duties"
            case _:
                at = dice.randrange(len(names))
                act = dice.choice([jobs.cancel, jobs.retry, jobs.delete])
                try:
                    act(shared, TENANT, names[at])
                except (Conflict, NotFound):
                    names[at] = make_job(shared, 2)
                return "cancels, retries, deletes"

    def ending(dice: random.Random, unit: Claimed) -> Ending:
        if dice.random() < 0.7:
            return success(shared, unit, parts=dice.randint(0, 3))
        return Ending(unit, dice.choice([Outcome.RELEASED, Outcome.FAILED]), problem=PASSING)

    started = time.monotonic()
    with ThreadPoolExecutor(threads) as crowd:
        for one in [crowd.submit(storm, number) for number in range(threads)]:
            one.result()  # a deadlock, or any other error of a statement, is raised here
    report.say(rounds=sum(done.values()), deadlocks=0, per_s=sum(done.values()) / (time.monotonic() - started), **done)
    assert_nothing_impossible(shared)
