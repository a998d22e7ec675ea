"""Real servers for the tests that need them, started once a session."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from omni_jobs.embedded.home import Home
from omni_jobs.embedded.postgres import Postgres
from omni_jobs.store import open_database, schema
from omni_jobs.store.database import new_id

# What a shell starts in the background ignores SIGINT, what `nohup` starts SIGHUP, and so would all that we start:
# nobody could press Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Without a GPU kernels run in Triton's interpreter, which has to be known before anybody imports Triton.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--scale", type=float, default=0.1, help="of the fault tests: 1 runs their full numbers")


MEDIA = Path(os.environ.get("OMNI_TEST_MEDIA", Path(__file__).parents[2] / "shared" / "media"))


@pytest.fixture(scope="session")
def media() -> Path:
    """Real media with known content; tests that need it skip where it is missing."""
    if not (MEDIA / "MANIFEST.json").is_file():
        pytest.skip(f"no test media at {MEDIA} (set OMNI_TEST_MEDIA)")
    return MEDIA


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A PostgreSQL server with the schema in the database `template_omni`."""
    # Not pytest's own folder: as root the account that runs the server may not enter it.
    folder = Path(tempfile.mkdtemp(prefix="omni test "))
    runtime = Path(tempfile.mkdtemp(prefix="omni-"))
    for path in (folder, runtime):
        path.chmod(0o711)
    home = Home(folder)
    home.create()
    server = Postgres(home, runtime)
    server.start()
    try:
        server.ready()
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("create database template_omni")
        schema.upgrade(_sibling(server.url, "template_omni"))
        yield server.url
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(runtime, ignore_errors=True)


def _sibling(url: str, name: str) -> str:
    return f"{url.rpartition('/')[0]}/{name}"


@contextmanager
def _fresh_database(server_url: str) -> Iterator[str]:
    name = f"t_{new_id().replace('-', '')}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f"create database {name} template template_omni")  # type: ignore[arg-type]
        yield _sibling(server_url, name)
        connection.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]


@pytest.fixture
def database_url(server_url: str) -> Iterator[str]:
    """A database of its own for one test, at the newest schema."""
    with _fresh_database(server_url) as url:
        yield url


@pytest.fixture(scope="module")
def file_database_url(server_url: str) -> Iterator[str]:
    """One database, at the newest schema, for all tests of a file."""
    with _fresh_database(server_url) as url:
        yield url


@pytest.fixture
def db(database_url: str) -> Iterator[Engine]:
    engine = open_database(database_url, size=16)
    yield engine
    engine.dispose()
