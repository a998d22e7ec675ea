"""One process that starts the parts, keeps them running, and ends them in order.

Everything happens in the main thread: the children die with the thread that forked them (see process.py).
"""

import http.client
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import psycopg

from omni_jobs.embedded.backup import backup_of
from omni_jobs.embedded.door import LONGEST_PATH, Door
from omni_jobs.embedded.home import Home
from omni_jobs.embedded.identity import Identity, identify
from omni_jobs.embedded.ports import LOOPBACK, free_ports
from omni_jobs.embedded.postgres import Postgres
from omni_jobs.embedded.process import Process
from omni_jobs.embedded.programs import POOLS, Program, Role, our_programs, program_environment
from omni_jobs.embedded.redis import Valkey
from omni_jobs.embedded.s3 import SeaweedFS
from omni_jobs.embedded.server import PortTaken, Server
from omni_jobs.embedded.state import State
from omni_jobs.embedded.sweep import remove, sweep
from omni_jobs.embedded.upkeep import Upkeep
from omni_jobs.errors import Unavailable
from omni_jobs.settings import Settings

TICK_S = 0.2
PORT_TRIES = 5
API_TIMEOUT_S = 60.0
BUSY_EVERY_S = 1.0
GRACE_S = 5.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
OPEN_JOBS = "select exists (select from omni.jobs where state in ('queued', 'running'))"

Migrate = Callable[[str, Callable[[str], None]], object]
log = logging.getLogger(__name__)


class _Halted(Exception):
    """A signal came while we were starting."""


class Supervisor:
    """The stack of one home.

    Args:
        linger_s: end so long after the last client has left and no job is open; None: run until a signal comes.
        programs: what runs beside the servers.
        migrate: brings the embedded database to the head of the schema; gets its URL and a backup to call before.
        busy: whether work is open that forbids to end.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        programs: Sequence[Program],
        linger_s: float | None = None,
        migrate: Migrate | None = None,
        busy: Callable[[], bool] | None = None,
    ) -> None:
        self.settings = settings
        self.home = Home(settings.home)
        self.programs = programs
        self.linger_s = linger_s
        self._migrate = migrate or upgrade_schema
        self._busy = busy or (lambda: has_open_jobs(self.state.database_url))
        self._signals = self._signals_at_stop = 0
        self._servers: dict[str, Server] = {}
        self._children: dict[str, tuple[Role, Process]] = {}
        self._upkeeps: list[Upkeep] = []

    def run(self) -> None:
        """Returns after an ordered stop.

        Raises:
            Occupied: another supervisor runs on this home.
            Refused: the home cannot be used.
            Unavailable: a part did not start.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a supervisor runs in the main thread: its children die with the thread that forks them")
        self.home.create()
        with self.home.locked(), self._signals_noted():
            sweep(self.home)
            self._open()
            try:
                self._start()
                self._watch()
            except _Halted:
                pass
            finally:
                self._stop()

    # Start.

    def _open(self) -> None:
        me = identify(os.getpid())
        assert me is not None
        self._runtime = _runtime_folder()
        self.state = State(supervisor=me, scraps=(str(self._runtime),), doing="preparing")
        self.home.write_state(self.state)
        self.door = Door(self._runtime / "supervisor.sock")
        self._update(socket=str(self.door.path))

    def _start(self) -> None:
        began = time.monotonic()
        # The slowest first: it starts while the others prepare.
        parts: list[tuple[type[Server], str]] = [
            (SeaweedFS, self.settings.blob_url),
            (Valkey, self.settings.broker_url),
            (Postgres, self.settings.database_url),
        ]
        needed = [part for part, url in parts if not url]
        self._say("starting " + ", ".join(part.__name__ for part in needed) if needed else "no servers to start")
        for part in needed:
            self._servers[part.name] = server = part(self.home, self._runtime)
            server.start()
        self._publish()
        self._await("valkey")
        self._await("postgres")
        self._upgrade()
        self._launch(Role.API)
        # Without the store a worker would fail the jobs it finds, so it starts after it.
        self._await("s3")
        self._launch(Role.WORKER)
        self._launch(Role.WATCHER)
        self._await_api()
        self._say(f"ready after {time.monotonic() - began:.1f} s", ready=True)

    def _await(self, name: str) -> None:
        server = self._servers.get(name)
        if server is None:
            return
        for attempt in range(PORT_TRIES):
            try:
                server.ready(tick=self._tick)
                break
            except PortTaken:
                if attempt == PORT_TRIES - 1:
                    raise
                server.start()
                self._publish()
        assert server.process is not None
        self._upkeeps.append(Upkeep(server.process, time.monotonic()))

    def _upgrade(self) -> None:
        """Our own database only: another one's schema is its administrator's to change."""
        postgres = self._servers.get("postgres")
        if isinstance(postgres, Postgres):
            self._say("bringing the schema to its head")
            self._migrate(postgres.url, backup_of(postgres.url, self.home, postgres.binaries))
            self._tick()

    def _launch(self, role: Role) -> None:
        programs = [program for program in self.programs if program.role is role]
        if not programs:
            return
        if role is Role.API:
            self._update(api_url=self._api_url(self.settings.api_port or free_ports(1)[0]))
        environment = program_environment(
            os.environ, self.settings, self.state, home=self.home.path, key=self._key(), api_port=self._api_port()
        )
        for program in programs:
            process = Process(
                program.name, program.argv, log_path=self.home.logs / f"{program.name}.log", env=environment, cwd="."
            )
            process.start()
            self._children[program.name] = (role, process)
            self._upkeeps.append(Upkeep(process, time.monotonic()))
        self._say("starting " + ", ".join(program.name for program in programs))

    def _await_api(self) -> None:
        apis = [process for role, process in self._children.values() if role is Role.API]
        deadline = time.monotonic() + API_TIMEOUT_S
        while apis and not self._api_answers():
            self._tick()
            if time.monotonic() > deadline:
                raise Unavailable(f"the API is not ready after {API_TIMEOUT_S:.0f} s:\n{apis[0].tail()}")
            time.sleep(0.05)

    def _api_answers(self) -> bool:
        connection = http.client.HTTPConnection(self._api_host(), self._api_port(), timeout=2)
        try:
            connection.request("GET", "/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    # Run.

    def _watch(self) -> None:
        last_seen = next_look = time.monotonic()
        while not self._signals:
            self.door.wait(TICK_S)
            self._tend()
            now = time.monotonic()
            if self.door.clients:
                last_seen = now
            if self.linger_s is None or now - last_seen < self.linger_s or now < next_look:
                continue
            next_look = now + BUSY_EVERY_S
            if self._busy():
                continue
            self.door.wait(0)
            if not self.door.clients:
                log.info("supervisor.idle seconds=%.1f", now - last_seen)
                return

    def _tick(self) -> None:
        if self._signals:
            raise _Halted
        self._tend()

    def _tend(self) -> None:
        now = time.monotonic()
        restarted = [upkeep for upkeep in self._upkeeps if upkeep.tend(now)]
        if restarted:
            self._publish()

    # Stop.

    def _stop(self) -> None:
        self._signals_at_stop = self._signals
        self._say("stopping", ready=False)
        self._end(Role.API, Role.WATCHER, grace_s=GRACE_S)
        # They hand their units back after `drain_s`.
        self._end(Role.WORKER, grace_s=self.settings.drain_s + GRACE_S)
        for name in ("s3", "valkey", "postgres"):
            if name in self._servers:
                began = time.monotonic()
                self._servers[name].stop()
                log.info("server.stopped name=%s seconds=%.2f", name, time.monotonic() - began)
        self.door.close()
        remove(self.state.scraps)
        self.home.clear_state()
        log.info("supervisor.stopped")

    def _end(self, *roles: Role, grace_s: float) -> None:
        leaving = [process for role, process in self._children.values() if role in roles]
        for process in leaving:
            process.send(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        for process in leaving:
            # A second signal says that somebody does not want to wait.
            while self._signals <= self._signals_at_stop and time.monotonic() < deadline:
                if process.wait(0.1):
                    break
            if process.ended() is None:
                log.warning("child.killed name=%s", process.name)
            process.kill()

    # What we say.

    def _say(self, doing: str, *, ready: bool | None = None) -> None:
        log.info("supervisor: %s", doing)
        self._update(doing=doing, ready=self.state.ready if ready is None else ready)

    def _publish(self) -> None:
        """Addresses and children as they are now."""
        self._update()

    def _update(self, **changes: object) -> None:
        addresses = self._addresses()
        self.state = replace(self.state, **{**addresses, "children": self._identities(), **changes})
        self.home.write_state(self.state)

    def _addresses(self) -> dict[str, object]:
        settings, servers = self.settings, self._servers
        store = servers.get("s3")
        found: dict[str, object] = {
            "database_url": servers["postgres"].url if "postgres" in servers else settings.database_url,
            "broker_url": servers["valkey"].url if "valkey" in servers else settings.broker_url,
            "blob_url": settings.blob_url,
            "s3_endpoint": settings.s3_endpoint,
            "s3_access_key": settings.s3_access_key,
            "s3_secret_key": settings.s3_secret_key,
        }
        if isinstance(store, SeaweedFS):
            found |= {"blob_url": store.url, "s3_endpoint": store.endpoint}
            found |= {"s3_access_key": store.access_key, "s3_secret_key": store.secret_key}
        scraps = [self._runtime, *(scrap for server in servers.values() for scrap in server.scraps)]
        return {**found, "scraps": tuple(map(str, scraps))}

    def _identities(self) -> dict[str, Identity]:
        processes = [server.process for server in self._servers.values()]
        processes += [process for _, process in self._children.values()]
        return {process.name: process.identity for process in processes if process and process.identity}

    def _key(self) -> str:
        return self.settings.api_key or self.home.key()

    def _api_host(self) -> str:
        host = self.settings.api_host
        return {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}.get(host, host)

    def _api_port(self) -> int:
        return int(self.state.api_url.rpartition(":")[2] or 0) if self.state.api_url else 0

    def _api_url(self, port: int) -> str:
        host = self._api_host()
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @contextmanager
    def _signals_noted(self) -> Iterator[None]:
        """The signals that stop us are counted and nothing else: `_tick` and `_watch` look."""

        def note(number: int, _frame: FrameType | None) -> None:
            self._signals += 1

        # What was ignored (nohup) stays ignored.
        taken = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, note) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(
    settings: Settings,
    *,
    linger_s: float | None = None,
    watch: Sequence[str] = (),
    pools: Sequence[str] = POOLS,
    api: bool = True,
    programs: Sequence[Program] | None = None,
    migrate: Migrate | None = None,
    busy: Callable[[], bool] | None = None,
) -> None:
    """Runs the stack of `settings.home` until it is signalled, or is idle for `linger_s`. See `Supervisor`."""
    if programs is None:
        programs = our_programs(pools, watch, api=api)
    Supervisor(settings, programs=programs, linger_s=linger_s, migrate=migrate, busy=busy).run()


def upgrade_schema(url: str, backup: Callable[[str], None]) -> object:
    # Imported here: alembic and the tables are needed once, in the process that migrates.
    from omni_jobs.store import schema

    return schema.upgrade(url, backup=backup)


def has_open_jobs(url: str) -> bool:
    """Whether a job is queued or running; a database that cannot say has none."""
    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            row = connection.execute(OPEN_JOBS).fetchone()
    except psycopg.Error:
        return False
    return bool(row and row[0])


def _runtime_folder() -> Path:
    """A short folder for sockets, which as root other accounts may pass through."""
    for parent in (tempfile.gettempdir(), "/tmp"):
        folder = Path(tempfile.mkdtemp(prefix="omni-", dir=parent))
        if len(str(folder / "postgres" / ".s.PGSQL.65535.lock")) < LONGEST_PATH:
            break
        folder.rmdir()
    else:
        raise Unavailable("no folder with a path short enough for sockets: set TMPDIR to a short one")
    if os.geteuid() == 0:
        folder.chmod(0o711)
    return folder
