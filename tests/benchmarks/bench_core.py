"""What durability costs: jobs through the core, claims in a long queue, the same counts in Celery and procrastinate.

    python tests/benchmarks/bench_core.py flow [--jobs 3000] [--s3]
    python tests/benchmarks/bench_core.py post [--jobs 5000]
    python tests/benchmarks/bench_core.py claims [--finished 1000000]
    python tests/benchmarks/bench_core.py others [--tasks 6000]     # pip install procrastinate
    python tests/benchmarks/bench_core.py plans [--finished 1000000]

Real PostgreSQL with fsync and synchronous_commit on, real worker processes, a backend that answers at once with 2 kB.
Everything, generator and servers included, runs on this machine. Prints wall time, CPU seconds and load average.
"""

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import psycopg  # noqa: E402

from omni_jobs.job import Pool  # noqa: E402
from omni_jobs.store import attempts, claims, workers  # noqa: E402
from omni_jobs.store.database import open_database  # noqa: E402
from tests.faults.cluster import Cluster, cluster  # noqa: E402
from tests.faults.fake import Script  # noqa: E402
from tests.faults.load import Client, Posted  # noqa: E402
from tests.statements import statements  # noqa: E402

HZ = os.sysconf("SC_CLK_TCK")


def where() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, load {load:.2f}, Python {platform.python_version()}, commit {commit}"


def cpu_seconds() -> float:
    """CPU seconds of this process and everything below it, what has ended included."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            used[int(folder.name)] = sum(map(int, fields[11:15])) / HZ
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(used[pid] for pid in ours if pid in used)


def cpu_of(pids: Iterable[int]) -> float:
    """CPU seconds of these processes."""
    used = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += sum(map(int, fields[11:13])) / HZ
    return used


def servers_of(made: Cluster) -> list[int]:
    """PostgreSQL's processes."""
    assert made.postgres.process is not None
    children = Path(f"/proc/{made.postgres.process.pid}/task/{made.postgres.process.pid}/children").read_text()
    return [made.postgres.process.pid, *map(int, children.split())]


@contextlib.contextmanager
def timed(said: dict[str, float]) -> Iterator[None]:
    wall, cpu = time.monotonic(), cpu_seconds()
    yield
    said["wall_s"], said["cpu_s"] = time.monotonic() - wall, cpu_seconds() - cpu


def quantiles(values: list[float]) -> str:
    ordered = sorted(values)
    return f"p50 {statistics.median(ordered):.2f} ms, p95 {ordered[int(0.95 * (len(ordered) - 1))]:.2f} ms"


def rss_mib(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    return 0.0


# Jobs through all phases


def flow(jobs: int, s3: bool) -> None:
    """Submit, then work: prepare, span, reduce, deliver; four units a job."""
    with cluster(s3=s3) as made:
        scripts = [Script(f"job-{number}", span_s=0.0) for number in range(jobs)]
        said: dict[str, float] = {}
        with timed(said):
            ids = made.submit(scripts, threads=4)
        print(f"submit        {jobs / said['wall_s']:.0f} jobs/s ({said['wall_s']:.1f} s, {said['cpu_s']:.1f} CPU-s)")
        made.start("maintain")
        crew = [made.start(pool) for pool in ("cpu", "gpu", "io")]
        made.until(lambda: made.sql("select 1 from omni.workers where pool <> 'maintain' having count(*) = 3"), 30, "")
        with timed(said):
            states = made.wait(ids, timeout_s=600, every_s=0.25)
        assert states == {"succeeded": jobs}, states
        made.check(dict(zip(ids, scripts, strict=True)))
        attempts_made = made.sql("select count(*) as n from omni.attempts")[0]["n"]
        print(
            f"units         {4 * jobs / said['wall_s']:.0f} units/s, {jobs / said['wall_s']:.0f} jobs/s "
            f"({said['wall_s']:.1f} s, {said['cpu_s']:.1f} CPU-s, {attempts_made} attempts)"
        )
        size = made.sql("select pg_database_size(current_database()) as n")[0]["n"]
        print(f"postgres      {size / jobs / 1000:.1f} kB a job")
        print(f"memory        {', '.join(f'{one.pool} {rss_mib(one.pid):.0f} MiB' for one in crew)}")
        together(made, jobs)


def together(made: Cluster, jobs: int) -> None:
    """Submitting and working at the same time, as in service."""
    scripts = [Script(f"more-{number}", span_s=0.0) for number in range(jobs)]
    said: dict[str, float] = {}
    parts = {"postgres": servers_of(made), "generator": [os.getpid()]} | {one.pool: [one.pid] for one in made.workers}
    before = {name: cpu_of(pids) for name, pids in parts.items()}
    with timed(said):
        ids = made.submit(scripts, threads=2)
        states = made.wait(ids, timeout_s=600, every_s=0.25)
    assert states == {"succeeded": jobs}, states
    print(
        f"all at once   {jobs / said['wall_s']:.0f} jobs/s, {4 * jobs / said['wall_s']:.0f} units/s "
        f"({said['wall_s']:.1f} s, {said['cpu_s']:.1f} CPU-s)"
    )
    spent = {name: 1000 * (cpu_of(pids) - before[name]) / jobs for name, pids in parts.items()}
    print(f"ms of CPU a job: {', '.join(f'{name} {ms:.1f}' for name, ms in spent.items())}")


# Posts


PER_S = 50  # posts a second


def post(jobs: int) -> None:
    """POST /v1/jobs at a fixed rate: with a broker, while it is away, and with workers that take every core."""
    with cluster() as made:
        url = made.start_api()
        posted(made, url, 100, "warm")
        before_mib = rss_mib(made.api_pid)
        for name in ("broker there", "broker away", "workers busy"):
            if name == "broker away":
                made.kill(made.valkey)
            elif name == "workers busy":
                made.revive(made.valkey)
                for pool in ("maintain", "cpu", "gpu", "io"):
                    made.start(pool)
            answers = posted(made, url, jobs // 3, name)
            ms = [1000 * one.seconds for one in answers]
            statuses = Counter(one.status for one in answers)
            print(f"{name:<13} {len(ms)} posts at {PER_S}/s: {quantiles(ms)}, {dict(statuses)}")
        print(f"memory of the API: {before_mib:.0f} MiB before, {rss_mib(made.api_pid):.0f} MiB after {jobs} jobs")


def posted(made: Cluster, url: str, jobs: int, name: str, clients: int = 8) -> list[Posted]:
    """An open loop: the next is sent when it is due, whether the one before is answered or not."""
    answers: list[Posted] = []
    began = time.monotonic()

    def send(first: int) -> list[Posted]:
        client, mine = Client(made, url), []
        for number in range(first, jobs, clients):
            time.sleep(max(0.0, began + number / PER_S - time.monotonic()))
            mine.append(client.post(Script(f"{name}-{number}", span_s=0.0)))
        return mine

    with ThreadPoolExecutor(clients) as threads:
        for some in threads.map(send, range(clients)):
            answers += some
    return answers


# Claims


def fill(made: Cluster, waiting: int, finished: int, tenants: int = 50) -> None:
    """Rows as the service would have left them: finished units, and waiting jobs over many tenants."""
    with psycopg.connect(made.postgres.url, autocommit=True) as connection:
        run = connection.execute
        run("insert into omni.tenants select 't' || n from generate_series(1, %s) n on conflict do nothing", (tenants,))
        for state, count, finished_units in (("succeeded", finished // 4, True), ("queued", waiting, False)):
            run(
                """
                insert into omni.jobs (job_id, tenant_id, name, origin, state, phase, finished_at)
                select md5(%(state)s || n)::uuid, 't' || 1 + n %% %(tenants)s, 'x', 'api', %(state)s,
                  case when %(state)s = 'succeeded' then 'deliver' else 'map' end,
                  case when %(state)s = 'succeeded' then now() end
                from generate_series(1, %(count)s) n
                """,
                {"state": state, "count": count, "tenants": tenants},
            )
            kinds = ["prepare", "span", "reduce", "deliver"] if finished_units else ["span"]
            run(
                """
                insert into omni.units (unit_id, job_id, tenant_id, revision, kind, pool, state, answer)
                select md5(j.job_id::text || k)::uuid, j.job_id, j.tenant_id, 1, k,
                  case k when 'prepare' then 'cpu' when 'deliver' then 'io' else 'gpu' end,
                  case when %(done)s then 'done' else 'ready' end,
                  case when %(done)s then jsonb_build_object('text', repeat('x', 200)) end
                from omni.jobs j cross join unnest(%(kinds)s::text[]) k where j.state = %(state)s
                """,
                {"kinds": kinds, "done": finished_units, "state": state},
            )
        run("vacuum analyze")


def claim_times(
    made: Cluster, claimers: int, seconds: float, every_s: float = 0.0, room: int = 4
) -> tuple[list[float], list[float]]:
    """Milliseconds that claims, and endings of what they took, last.

    What was taken succeeds, and its job moves on. Where little waits it is released, to be taken again.

    Args:
        every_s: time from one claim of a claimer to its next; 0 leaves no pause.
    """
    (ready_units,) = made.sql("select count(*) as n from omni.units where state = 'ready'")
    scarce = ready_units["n"] < 10_000
    outcome = attempts.Outcome.RELEASED if scarce else attempts.Outcome.SUCCEEDED
    answer = None if scarce else {"text": "x" * 2000}
    taking: list[float] = []
    ending: list[float] = []
    lock, ready = threading.Lock(), threading.Barrier(claimers)

    def work(_: int) -> None:
        db = open_database(made.postgres.url, size=2, ping=False, by_keys=True)
        me = workers.register(db, pool="gpu", host="h", pid=1, pid_started=1, version="b", backend=None)
        mine: tuple[list[float], list[float]] = ([], [])
        ready.wait()
        stop = time.monotonic() + seconds
        while time.monotonic() < stop:
            began = time.monotonic()
            units = claims.claim(db, me, Pool.GPU, room)
            took = time.monotonic()
            if units:
                attempts.end(db, [attempts.Ending(unit, outcome, answer) for unit in units])
                mine[0].append(1000 * (took - began))
                mine[1].append(1000 * (time.monotonic() - took))
            time.sleep(max(0.0, began + every_s - time.monotonic()))
        db.dispose()
        with lock:
            taking.extend(mine[0])
            ending.extend(mine[1])

    with ThreadPoolExecutor(claimers) as threads:
        list(threads.map(work, range(claimers)))
    return taking, ending


def queue(finished: int) -> None:
    for waiting in (100, 100_000):
        with cluster() as made:
            fill(made, waiting, finished)
            for claimers, every_s in ((1, 0.0), (8, 0.08), (8, 0.0)):
                taking, ending = claim_times(made, claimers, 10.0, every_s)
                print(
                    f"{waiting:>7} waiting, 50 tenants, {finished} finished, {claimers} claimers"
                    f"{f' every {1000 * every_s:.0f} ms' if every_s else ' without a pause'}: claim of 4 "
                    f"{quantiles(taking)}; end of 4 {quantiles(ending)} ({len(taking)} claims)",
                    flush=True,
                )


# Plans


def plans(finished: int) -> None:
    """EXPLAIN ANALYZE of the five hottest statements, as the store sends them."""
    with cluster() as made:
        fill(made, 100_000, finished)
        hot: dict[str, tuple[str, Any]] = {}

        def keep(sql: str, arguments: dict[str, Any]) -> None:
            for name, mark in {
                "claim": "with recursive allowed",
                "charge": "set_config('synchronous_commit'",
                "lock jobs": "from omni.jobs where job_id = any",
                "end attempts": "told as (",
                "open units": "where not exists (\n          select 1 from omni.units u where u.job_id = a.job_id",
            }.items():
                if mark in sql:
                    hot[name] = (sql, arguments)

        db = open_database(made.postgres.url)
        with statements(keep):
            me = workers.register(db, pool="gpu", host="h", pid=1, pid_started=1, version="b", backend=None)
            units = claims.claim(db, me, Pool.GPU, 4)
            answer = {"text": "x" * 2000}
            attempts.end(db, [attempts.Ending(unit, attempts.Outcome.SUCCEEDED, answer) for unit in units])
        for name, (sql, arguments) in hot.items():
            with db.connect() as connection:
                raw = connection.connection.driver_connection
                assert raw is not None
                print(f"== {name}")
                for (line,) in raw.execute("explain (analyze, costs off, timing off, buffers off) " + sql, arguments):
                    print("  ", line)
                connection.exec_driver_sql("rollback")
        db.dispose()


# Others


OTHER = """
import asyncio, os, sys, time
kind, url, tasks = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind.startswith("celery"):
    from celery import Celery
    app = Celery("x", broker=url)
    app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False, task_acks_late=True)
    @app.task(name="noop")
    def noop(text): pass
    if kind == "celery-send":
        for n in range(tasks): noop.apply_async(("x" * 2000,))
    else:
        app.Worker(pool="threads", concurrency=16, loglevel="ERROR", without_gossip=True, without_mingle=True,
                   prefetch_multiplier=16, quiet=True).start()
else:
    import procrastinate
    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=4, max_size=20)
    app = procrastinate.App(connector=connector)
    @app.task(name="noop")
    async def noop(text): pass
    async def main():
        async with app.open_async():
            if kind == "procrastinate-send":
                await app.schema_manager.apply_schema_async()
                for n in range(tasks): await noop.defer_async(text="x" * 2000)
            else:
                await app.run_worker_async(concurrency=16, wait=False, install_signal_handlers=False)
    asyncio.run(main())
"""


def others(tasks: int, python: str) -> None:
    """The same number of trivial tasks, three worker processes each, the same servers and durability."""
    with cluster() as made:
        script = made.folder / "other.py"
        script.write_text(OTHER)

        def run(kind: str, url: str) -> "subprocess.Popen[bytes]":
            return subprocess.Popen([python, str(script), kind, url, str(tasks)], cwd=made.folder)

        said: dict[str, float] = {}
        with timed(said):
            assert run("celery-send", made.valkey.url).wait() == 0
        print(f"celery        send {tasks / said['wall_s']:.0f} tasks/s ({said['cpu_s']:.1f} CPU-s)")
        import redis

        client = redis.Redis.from_url(made.valkey.url)
        with timed(said):
            crew = [run("celery", made.valkey.url) for _ in range(3)]
            while client.llen("celery") or client.hlen("unacked"):
                time.sleep(0.1)
        for one in crew:
            one.kill()
        print(f"celery        work {tasks / said['wall_s']:.0f} tasks/s ({said['cpu_s']:.1f} CPU-s, start included)")

        with psycopg.connect(made.postgres.url, autocommit=True) as connection:
            connection.execute("create database others")
        url = made.postgres.url.rpartition("/")[0] + "/others"
        with timed(said):
            assert run("procrastinate-send", url).wait() == 0
        print(f"procrastinate send {tasks / said['wall_s']:.0f} tasks/s ({said['cpu_s']:.1f} CPU-s)")
        with timed(said):
            crew = [run("procrastinate", url) for _ in range(3)]
            for one in crew:
                one.wait()
        with psycopg.connect(url) as connection:
            done = connection.execute("select count(*) from procrastinate_jobs where status = 'succeeded'").fetchone()
        assert done == (tasks,), done
        print(f"procrastinate work {tasks / said['wall_s']:.0f} tasks/s ({said['cpu_s']:.1f} CPU-s, start included)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("flow", "post", "claims", "others", "plans"))
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--tasks", type=int, default=6000)
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--s3", action="store_true", help="artifacts to SeaweedFS instead of files")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has celery and procrastinate")
    given = parser.parse_args()
    print(where())
    match given.what:
        case "flow":
            flow(given.jobs, given.s3)
        case "post":
            post(given.jobs)
        case "claims":
            queue(given.finished)
        case "plans":
            plans(given.finished)
        case _:
            others(given.tasks, given.python)


if __name__ == "__main__":
    main()
