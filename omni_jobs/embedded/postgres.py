"""PostgreSQL under our own launcher, from any folder of binaries."""

import shutil
import signal
from contextlib import suppress
from pathlib import Path

import psycopg

from omni_jobs.embedded.account import own_file, own_folder
from omni_jobs.embedded.binaries import PostgresBinaries, postgres_binaries, postgres_tree, reachable
from omni_jobs.embedded.home import Home
from omni_jobs.embedded.identity import folder_of, identify, program_of
from omni_jobs.embedded.ports import LOOPBACK
from omni_jobs.embedded.process import Process
from omni_jobs.embedded.server import PLAIN_ENV, Server
from omni_jobs.errors import Unavailable

ENV = {**PLAIN_ENV, "PGTZ": "UTC"}
INITDB_TIMEOUT_S = 120.0
FAST_STOP_S = 15.0
IMMEDIATE_STOP_S = 5.0

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    # After a crash one sync of the file system instead of one per file: 0.2 s instead of 2 s.
    "recovery_init_sync_method": "syncfs",
    # A query whose client was killed ends too, so that a killed stack leaves no busy backend.
    "client_connection_check_interval": "1s",
    "fsync": "on",
    "synchronous_commit": "on",
}


class Postgres(Server):
    name = "postgres"

    def __init__(self, home: Home, runtime: Path) -> None:
        super().__init__(home, runtime)
        self.password = home.secret("postgres")
        self.binaries = self._binaries()

    @property
    def url(self) -> str:
        return self._url("omni")

    def command(self) -> Process:
        own_folder(self.runtime, self.account)
        if not self.data.exists():
            self._initdb()
        own_folder(self.data, self.account)
        forget_dead_postmaster(self.data)
        settings = {"unix_socket_directories": _listed(self.runtime), **SETTINGS}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self._child("postgres", ["postgres", "-D", self.data, "-p", str(self.ports[0]), *options])

    def answers(self) -> bool:
        try:
            with psycopg.connect(self._url("postgres"), connect_timeout=2, autocommit=True) as connection:
                if connection.execute("select from pg_database where datname = 'omni'").fetchone() is None:
                    connection.execute("create database omni owner omni")
        except psycopg.Error:
            return False
        return True

    def stop(self) -> None:
        """Fast stop: SIGTERM would wait for every client."""
        if self.process is None:
            return
        self.process.send(signal.SIGINT)
        if not self.process.wait(FAST_STOP_S):
            self.process.send(signal.SIGQUIT)
            self.process.wait(IMMEDIATE_STOP_S)
        self.process.kill()

    def _initdb(self) -> None:
        """Makes the data folder; it gets its name when it is whole."""
        draft = self.home / "postgres.new"
        shutil.rmtree(draft, ignore_errors=True)
        own_folder(draft, self.account)
        password = own_file(self.home / "postgres.password", self.password, self.account)
        # One sync of the file system instead of a thousand files': 3 s instead of 7 s beside a busy disk.
        since_17 = ["--locale-provider=builtin", "--sync-method=syncfs"] if self.binaries.major >= 17 else []
        words = ["-D", draft, "-U", "omni", f"--pwfile={password}", "--auth=scram-sha-256", "-E", "UTF8", *since_17]
        words += ["--locale=C.UTF-8", "--data-checksums", "--no-instructions"]
        try:
            initdb = self._child("initdb", ["initdb", *words])
            if initdb.run(INITDB_TIMEOUT_S) != 0:
                raise Unavailable(f"initdb failed with status {initdb.ended()}:\n{initdb.tail()}")
        finally:
            password.unlink(missing_ok=True)
        draft.rename(self.data)

    def _child(self, name: str, argv: list[str | Path]) -> Process:
        program = self.binaries.folder / str(argv[0])
        log_path = self.home.logs / f"{name}.log"
        return Process(name, [program, *argv[1:]], log_path=log_path, env=ENV, account=self.account)

    def _binaries(self) -> PostgresBinaries:
        version = self.data / "PG_VERSION"
        found = postgres_binaries(int(version.read_text()) if version.exists() else None)
        program = found.folder / "postgres"
        usable = reachable(program, self.account, self.home / "bin", tree=postgres_tree(found.folder))
        return PostgresBinaries(usable.parent, found.major)

    def _url(self, database: str) -> str:
        return f"postgresql://omni:{self.password}@{LOOPBACK}:{self.ports[0]}/{database}"


def is_server_of(pid: int, data: Path) -> bool:
    """Whether this process is a PostgreSQL process of that data folder: all of them work inside it."""
    return program_of(pid) == "postgres" and folder_of(pid) == str(data)


def forget_dead_postmaster(data: Path) -> None:
    """Removes a postmaster.pid whose process is gone.

    Postgres would do so, except for a zombie, which it takes for alive, and which stays where pid 1 reaps nobody.
    Only whoever holds the home's lock may call this, after the sweep.
    """
    with suppress(OSError, ValueError, IndexError):
        lock = data / "postmaster.pid"
        pid = int(lock.read_text().splitlines()[0])
        if identify(pid) is None or not is_server_of(pid, data):
            lock.unlink()


def _listed(path: Path) -> str:
    """A path as one item of a list setting."""
    return '"' + str(path).replace('"', '""') + '"'
