"""A whole service of real processes whose parts can be killed: PostgreSQL, Valkey, an object store, workers."""

import atexit
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import Engine

from omni_jobs.blobs import BlobStore, open_blobs
from omni_jobs.broker import Bell
from omni_jobs.embedded.home import Home
from omni_jobs.embedded.ports import free_ports
from omni_jobs.embedded.postgres import Postgres
from omni_jobs.embedded.redis import Valkey
from omni_jobs.embedded.s3 import SeaweedFS
from omni_jobs.embedded.server import Server
from omni_jobs.errors import Unavailable
from omni_jobs.intake.submit import Intake, Submission
from omni_jobs.job import Pool
from omni_jobs.options import Options
from omni_jobs.settings import Settings
from omni_jobs.store import jobs, open_database, schema
from tests.faults.fake import Script, expected

ROOT = Path(__file__).parents[2]


class Nursery:
    """Forks workers, and knows which of them live."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMNI_FAILPOINTS": ""},
        )
        self._lock = threading.Lock()
        self._born: dict[int, int] = {}
        self.ended: dict[int, int] = {}
        self._changed = threading.Condition(self._lock)
        self._numbers = iter(range(1_000_000_000))
        self._on_end: Callable[[int, int], None] = lambda pid, status: None
        assert json.loads(self._line())["ready"]
        threading.Thread(target=self._listen, daemon=True).start()

    def _line(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline()

    def _listen(self) -> None:
        while line := self._line():
            said = json.loads(line)
            with self._changed:
                if "number" in said:
                    self._born[said["number"]] = said["pid"]
                else:
                    self.ended[said["pid"]] = said["status"]
                self._changed.notify_all()
            if "status" in said:
                self._on_end(said["pid"], said["status"])

    def watch(self, on_end: Callable[[int, int], None]) -> None:
        self._on_end = on_end

    def start(self, pool: str, env: dict[str, str], log: Path) -> int:
        """The pid of a new worker."""
        with self._changed:
            number = next(self._numbers)
            assert self._child.stdin is not None
            order = {"number": number, "pool": pool, "env": env, "log": str(log)}
            self._child.stdin.write(json.dumps(order) + "\n")
            self._child.stdin.flush()
            assert self._changed.wait_for(lambda: number in self._born, 60), "no worker was born"
            self.ended.pop(self._born[number], None)  # of an earlier process of this number
            return self._born[number]

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(10)


@cache
def nursery() -> Nursery:
    """One for all clusters of this process: importing everything is most of what a cluster costs."""
    made = Nursery()
    atexit.register(made.close)
    return made


@cache
def template() -> Path:
    """A home whose database is initialised and at the newest schema, to copy from."""
    folder = Path(tempfile.mkdtemp(prefix="omni template "))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o711)
    (folder / "run").mkdir(mode=0o711)
    home = Home(folder / "home")
    home.create()
    server = Postgres(home, folder / "run")
    server.start()
    server.ready()
    schema.upgrade(server.url)
    server.stop()
    return folder / "home"


@dataclass
class Worker:
    pool: str
    env: dict[str, str]
    pid: int = 0
    wanted: bool = True  # started again when it ends
    starts: int = 0
    history: list[int] = field(default_factory=list)


class Cluster:
    """The service. `settings` reach it as a client would."""

    def __init__(self, folder: Path, *, s3: bool = False, **more: Any) -> None:
        self.folder, runtime = folder, folder / "run"
        runtime.mkdir()
        runtime.chmod(0o711)
        subprocess.run(["cp", "-a", template(), folder / "home"], check=True)
        home = Home(folder / "home")
        home.create()
        self.postgres, self.valkey = Postgres(home, runtime), Valkey(home, runtime)
        self.s3 = SeaweedFS(home, runtime) if s3 else None
        self.servers: list[Server] = [self.postgres, self.valkey, *([self.s3] if self.s3 else [])]
        for server in self.servers:
            server.start()
        for server in self.servers:
            server.ready()
        (folder / "in").mkdir()
        (folder / "work").mkdir()
        store: dict[str, Any] = {"blob_url": f"file://{folder}/blobs"}
        if self.s3:
            store = {
                "blob_url": self.s3.url,
                "s3_endpoint": self.s3.endpoint,
                "s3_access_key": self.s3.access_key,
                "s3_secret_key": self.s3.secret_key,
            }
        self.settings = Settings(
            **{
                "home": folder / "home",
                "tenant": "acme",
                "database_url": self.postgres.url,
                "broker_url": self.valkey.url,
                "file_roots": (folder / "in",),
                "work_dir": folder / "work",
                "backend": "tests.faults.fake:Fake",
                "min_free_bytes": 0,
                "lease_s": 2.0,
                "poll_s": 0.25,
                "drain_s": 3.0,
                "log_level": "WARNING",
                **store,
                **more,
            }
        )
        self.db: Engine = open_database(self.settings.database_url, size=16)
        self.blobs: BlobStore = open_blobs(self.settings)
        self.bell = Bell(self.settings)
        self.nursery = nursery()
        self.nursery.watch(self._ended)
        self.workers: list[Worker] = []
        self._api: subprocess.Popen[bytes] | None = None
        self._closing = False

    # Workers

    def env(self, **more: Any) -> dict[str, str]:
        """The settings as a worker reads them."""
        said: dict[str, str] = {}
        for name, value in (self.settings.model_dump() | more).items():
            if isinstance(value, tuple):
                value = ":".join(map(str, value)) if name == "file_roots" else ",".join(map(str, value))
            if value is not None:
                said[f"OMNI_{name.upper()}"] = str(value)
        return said

    def start(self, pool: str, *, failpoints: str = "", **more: Any) -> Worker:
        """Start a worker; when it ends it is started again, without failpoints."""
        env = self.env() | {name.upper(): str(value) for name, value in more.items()}
        worker = Worker(pool, env)
        self.workers.append(worker)
        self._spawn(worker, {**env, "OMNI_FAILPOINTS": failpoints})
        return worker

    def _spawn(self, worker: Worker, env: dict[str, str]) -> None:
        worker.starts += 1
        worker.pid = self.nursery.start(worker.pool, env, self.folder / f"{worker.pool}.log")
        worker.history.append(worker.pid)

    def _ended(self, pid: int, status: int) -> None:
        if self._closing:
            return
        for worker in self.workers:
            if worker.pid == pid and worker.wanted:
                env = {**worker.env, "OMNI_FAILPOINTS": ""}
                threading.Thread(target=self._spawn, args=(worker, env), daemon=True).start()

    def of(self, pool: str) -> list[Worker]:
        return [worker for worker in self.workers if worker.pool == pool and worker.wanted]

    def stop(self, worker: Worker, number: int = signal.SIGTERM) -> None:
        """End a worker for good."""
        worker.wanted = False
        signal_to(worker.pid, number)

    # Servers

    def kill(self, server: Server) -> None:
        """SIGKILL it."""
        assert server.process is not None
        server.process.kill()

    def revive(self, server: Server, timeout_s: float = 60.0) -> float:
        """Start it again on its ports and its data, as the supervisor does; returns how long that took."""
        started = time.monotonic()
        while True:
            server.process = server.command()
            server.process.start()
            try:
                server.ready(timeout_s)
                return time.monotonic() - started
            except Unavailable:
                # Children of a killed server may hold its memory for a moment.
                assert time.monotonic() - started < timeout_s, f"{server.name} does not come back"
                time.sleep(0.1)

    def start_api(self) -> str:
        """A real API process; returns its address."""
        (port,) = free_ports(1)
        with (self.folder / "api.log").open("ab") as log:
            self._api = subprocess.Popen(
                [sys.executable, "-m", "omni_jobs.api"],
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.env(api_port=port)},
                stdout=log,
                stderr=log,
            )

        def lives() -> bool:
            with suppress(OSError):
                return urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=1).status == 200
            return False

        self.until(lives, 60, "the API does not answer")
        return f"http://127.0.0.1:{port}"

    @property
    def api_pid(self) -> int:
        assert self._api is not None
        return self._api.pid

    # Work

    def submit(self, scripts: Sequence[Script], tenant: str = "", threads: int = 4, **request: Any) -> list[str]:
        """Submit one job for each script, by the way everything comes in; returns their ids in order."""

        def one(script: Script) -> str:
            path = self.folder / "in" / f"{script.name}.json"
            path.write_bytes(script.to_bytes())
            return self.submit_file(path, tenant, **request)

        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, scripts))

    def submit_file(self, path: Path, tenant: str = "", **request: Any) -> str:
        """Submit one file below `in`."""
        settings = self.settings.model_copy(update={"tenant": tenant}) if tenant else self.settings
        intake = Intake(self.db, self.blobs, self.bell, settings)
        options = Options(word_times=False, **request.pop("options", {}))
        return intake.submit(Submission(uri=path.as_uri(), options=options, reuse=False, **request)).job_id

    def sql(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            return cursor.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def wait(self, ids: Sequence[str], timeout_s: float, every_s: float = 0.1) -> dict[str, int]:
        """Until all of them have ended; how many ended in which state."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                found = self.sql(
                    "select state, count(*) as n from omni.jobs where job_id = any(%s) group by 1", list(ids)
                )
            except psycopg.OperationalError:
                found = [{"state": "running", "n": 1}]
            counts = {one["state"]: one["n"] for one in found}
            if not counts.get("queued") and not counts.get("running"):
                return counts
            assert time.monotonic() < end, f"after {timeout_s} s: {counts}\n{self.stuck()}\n{self.logs()}"
            time.sleep(every_s)

    def until(self, holds: Callable[[], Any], timeout_s: float, what: str) -> Any:
        """What `holds` says once it is true."""
        end = time.monotonic() + timeout_s
        while not (found := holds()):
            assert time.monotonic() < end, f"{what}\n{self.stuck()}\n{self.logs()}"
            time.sleep(0.02)
        return found

    def open_jobs(self) -> int:
        return self.sql("select count(*) as n from omni.jobs where state in ('queued', 'running')")[0]["n"]

    def open_units(self, pool: str) -> int:
        query = "select count(*) as n from omni.units where pool = %s and state in ('ready', 'running')"
        return self.sql(query, pool)[0]["n"]

    def counted(self, series: str) -> float:
        """What all workers have counted of a series, dead ones included."""
        query = "select coalesce(sum((counters ->> %s)::float), 0) as n from omni.workers"
        return self.sql(query, series)[0]["n"]

    def retry(self, job_id: str) -> int:
        return jobs.retry(self.db, self.settings.tenant, job_id)

    def stuck(self) -> str:
        found = self.sql(
            """select u.kind, u.state, u.generation, u.lost, u.failed, u.released, u.alone, u.ready_at - now() as wait,
                 w.state as worker, w.verdict from omni.units u left join omni.workers w using (worker_id)
               where u.state in ('ready', 'running') limit 20"""
        )
        return "\n".join(map(str, found))

    def logs(self, characters: int = 1500) -> str:
        return "\n".join(
            f"== {log.name}\n{log.read_text(errors='replace')[-characters:]}" for log in self.folder.glob("*.log")
        )

    # What must hold afterwards

    def check(self, scripts: dict[str, Script]) -> None:
        """Every job of `scripts` (by job id) has exactly one result with the right text, and all its objects."""
        import hashlib

        ids = list(scripts)
        results = self.sql(
            "select job_id::text, count(*) as n from omni.results where job_id = any(%s) group by 1", ids
        )
        assert {one["job_id"]: one["n"] for one in results} == dict.fromkeys(ids, 1)
        found = self.sql(
            "select job_id::text, position, text from omni.segments where job_id = any(%s) order by start_s", ids
        )
        texts: dict[str, list[str]] = {}
        for one in found:
            texts.setdefault(one["job_id"], []).append(one["text"])
        for job_id, script in scripts.items():
            wanted = [expected(script, at) for at in range(script.spans)]
            assert texts.get(job_id) == wanted, f"{script.name}: {len(texts.get(job_id, []))} of {script.spans} texts"
        doubled = self.sql(
            """select unit_id from omni.attempts where outcome = 'succeeded' group by unit_id having count(*) > 1"""
        )
        assert not doubled
        open_units = self.sql("select 1 from omni.units where job_id = any(%s) and state in ('ready', 'running')", ids)
        assert not open_units
        for one in self.sql("select key, sha256 from omni.artifacts where job_id = any(%s)", ids):
            assert hashlib.sha256(self.blobs.get(one["key"])).hexdigest() == one["sha256"], one["key"]

    def close(self) -> None:
        self._closing = True
        for worker in self.workers:
            worker.wanted = False
            for pid in worker.history:
                if pid not in self.nursery.ended:
                    signal_to(pid, signal.SIGKILL)
        if self._api is not None:
            self._api.kill()
            self._api.wait()
        self.bell.close()
        self.db.dispose()
        for server in reversed(self.servers):
            server.stop()


def signal_to(pid: int, number: int) -> bool:
    """Whether the process was there to get it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@dataclass
class Kills:
    """What a killer did: a kill between units proves nothing."""

    total: int = 0
    hit: int = 0  # a unit was running

    @property
    def share(self) -> float:
        return self.hit / max(self.total, 1)


class Killer:
    """Kills random workers at random times, for as long as it is told to, and counts what it hit."""

    def __init__(self, cluster: Cluster, pools: Sequence[str], *, every_s: float, most: int, seed: int = 1) -> None:
        self._cluster, self._pools, self._every_s, self._most = cluster, pools, every_s, most
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self.kills = Kills()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Killer":
        self._thread.start()
        return self

    def done(self, timeout_s: float) -> bool:
        """Whether all kills have been made, after waiting for that a while."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stop(self) -> Kills:
        self._stop.set()
        self._thread.join()
        return self.kills

    def _run(self) -> None:
        with psycopg.connect(self._cluster.postgres.url, autocommit=True) as connection:
            while not self._stop.wait(self._random.uniform(0, 2 * self._every_s)):
                self._kill(connection)
                if self.kills.total >= self._most:
                    return

    def _kill(self, connection: "psycopg.Connection[Any]") -> None:
        """A running unit is looked for first, for the kill to prove something; its worker is what is killed."""
        pool = self._random.choice(list(self._pools))
        for _ in range(50):
            found = connection.execute(
                """select w.pid from omni.units u join omni.workers w using (worker_id)
                   where u.state = 'running' and u.pool = %s and w.state = 'running' and u.claimed_at < now()
                   limit 8""",
                (pool,),
            ).fetchall()
            if found or self._stop.is_set():
                break
            time.sleep(0.01)
        pids = [pid for (pid,) in found] or [worker.pid for worker in self._cluster.of(pool)]
        if pids and signal_to(pid := self._random.choice(pids), signal.SIGKILL):
            self.kills.total += 1
            held = connection.execute(
                """select 1 from omni.units u join omni.workers w using (worker_id)
                   where w.pid = %s and u.state = 'running' limit 1""",
                (pid,),
            ).fetchone()
            self.kills.hit += held is not None


@contextmanager
def cluster(**more: Any) -> Iterator[Cluster]:
    """A cluster in a folder of its own, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="omni faults "))
    folder.chmod(0o711)
    made: Cluster | None = None
    try:
        made = Cluster(folder, **more)
        yield made
    finally:
        if made is not None:
            made.close()
        shutil.rmtree(folder, ignore_errors=True)


def pools() -> list[str]:
    return [pool.value for pool in Pool]
