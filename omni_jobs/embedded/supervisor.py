"""One process that starts the parts, keeps them running, and ends them in order.

Everything happens in the main thread: the children die with the thread that forked them (see process.py).
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

from omni_jobs.embedded.addresses import PARTS, addresses
from omni_jobs.embedded.backup import backup_of
from omni_jobs.embedded.database import has_open_jobs, upgrade_schema
from omni_jobs.embedded.door import Door
from omni_jobs.embedded.front import Front
from omni_jobs.embedded.home import Home
from omni_jobs.embedded.identity import Identity, identify
from omni_jobs.embedded.ports import free_ports, is_free
from omni_jobs.embedded.postgres import Postgres
from omni_jobs.embedded.process import Process
from omni_jobs.embedded.programs import POOLS, Program, Role, our_programs, program_environment
from omni_jobs.embedded.redis import Valkey
from omni_jobs.embedded.runtime import runtime_folder
from omni_jobs.embedded.s3 import SeaweedFS
from omni_jobs.embedded.server import PortTaken, Server
from omni_jobs.embedded.state import State
from omni_jobs.embedded.sweep import remove, sweep
from omni_jobs.embedded.upkeep import Upkeep
from omni_jobs.errors import Refused, Unavailable
from omni_jobs.settings import Settings

TICK_S = 0.2
PORT_TRIES = 5
API_TIMEOUT_S = 120.0
BUSY_EVERY_S = 1.0
GRACE_S = 5.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# The slowest first: it starts while the others prepare.
SERVERS: tuple[type[Server], ...] = (SeaweedFS, Valkey, Postgres)
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
        self._front = Front.bound_to(settings.api_host, settings.api_port or free_ports(1)[0])

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
            self._check_port()
            sweep(self.home)
            self._open()
            try:
                self._start()
                self._watch()
            except _Halted:
                pass
            finally:
                self._stop()

    def _check_port(self) -> None:
        """Somebody else's server on our port could pass for our API."""
        port, host = self.settings.api_port, self.settings.api_host
        if port and any(program.role is Role.API for program in self.programs) and not is_free(host, port):
            raise Refused(f"port {port} of {host} is taken: set OMNI_API_PORT to another, or to 0 for any")

    def _open(self) -> None:
        me = identify(os.getpid())
        assert me is not None
        self._runtime = runtime_folder()
        self.state = State(supervisor=me, scraps=(str(self._runtime),), doing="preparing")
        self.home.write_state(self.state)
        self.door = Door(self._runtime / "supervisor.sock")
        self._update(socket=str(self.door.path))

    def _start(self) -> None:
        began = time.monotonic()
        needed = [part for part in SERVERS if not getattr(self.settings, PARTS[part.name])]
        self._say("starting " + ", ".join(part.__name__ for part in needed) if needed else "no servers to start")
        for part in needed:
            server = part(self.home, self._runtime)
            server.start()
            self._servers[part.name] = server
        self._update()
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
                self._update()
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
            self._update(api_url=self._front.url)
        key = self.settings.api_key or self.home.key()
        environment = program_environment(
            os.environ, self.settings, self.state, home=self.home.path, key=key, api_port=self._front.port
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
        while apis and not self._front.ready():
            self._tick()
            if time.monotonic() > deadline:
                raise Unavailable(f"the API is not ready after {API_TIMEOUT_S:.0f} s:\n{apis[0].tail()}")
            time.sleep(0.05)

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
            self._update()

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

    def _say(self, doing: str, *, ready: bool | None = None) -> None:
        log.info("supervisor: %s", doing)
        self._update(doing=doing, ready=self.state.ready if ready is None else ready)

    def _update(self, **changes: Any) -> None:
        """Writes what changed, and addresses and children as they are now."""
        scraps = [self._runtime, *(scrap for server in self._servers.values() for scrap in server.scraps)]
        now = {**addresses(self.settings, self._servers), "children": self._identities()}
        self.state = replace(self.state, **{**now, "scraps": tuple(map(str, scraps)), **changes})
        try:
            self.home.write_state(self.state)
        except OSError as error:
            # A full disk is no reason to end what runs, or not to end it in order.
            log.error("state.unwritten error=%s", error)

    def _identities(self) -> dict[str, Identity]:
        processes = [server.process for server in self._servers.values()]
        processes += [process for _, process in self._children.values()]
        return {process.name: process.identity for process in processes if process and process.identity}

    @contextmanager
    def _signals_noted(self) -> Iterator[None]:
        """The signals that stop us are counted and nothing else: `_tick` and `_watch` look."""

        def note(number: int, _frame: FrameType | None) -> None:
            self._signals += 1

        # Under nohup a hang-up stays ignored.
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        taken = [number for number in STOP_SIGNALS if not (ignored and number is signal.SIGHUP)]
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
