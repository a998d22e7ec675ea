"""The stack itself: up, down, migrate, watch."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from omni_jobs.cli.examples import examples
from omni_jobs.cli.run import Deadline, OnGap, Priority
from omni_jobs.errors import Refused, UsageError
from omni_jobs.moments import moment_of

if TYPE_CHECKING:
    from omni_jobs.embedded.state import State
    from omni_jobs.settings import Settings

POLL_S = 0.1
REMOTE_PREFIX = "s3://"


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "omni-jobs up",
            "OMNI_API_PORT=8000 omni-jobs up --watch ~/inbox --watch s3://media/incoming",
        )
    )(up)
    app.command(epilog=examples("omni-jobs down"))(down)
    app.command(epilog=examples("omni-jobs migrate", "OMNI_DATABASE_URL=postgresql://omni@db/omni omni-jobs migrate"))(
        migrate
    )
    app.command(
        epilog=examples(
            "omni-jobs watch ~/inbox",
            "omni-jobs watch s3://media/incoming --priority -10 --deadline +1d --on-gap fail",
        )
    )(watch)


def up(
    watch: Annotated[
        list[str] | None, typer.Option("--watch", metavar="DIR", help="Take in what appears there; folder or s3://.")
    ] = None,
) -> None:
    """Run servers, API and workers in the foreground."""
    from omni_jobs.cli.reach import read_settings
    from omni_jobs.embedded.home import running
    from omni_jobs.embedded.supervisor import serve

    settings = read_settings()
    targets = [_target(name) for name in watch or []]
    state = running(settings.home)
    if state is not None:
        where = state.api_url if state.ready else f"{state.doing} (not ready yet)"
        raise Refused(
            f"omni-jobs already runs on {settings.home}: {where}, pid {state.supervisor.pid}; `omni-jobs down` ends it"
        )
    threading.Thread(target=_announce, args=(settings,), name="announce", daemon=True).start()
    serve(settings, watch=targets)
    print("stopped", file=sys.stderr)


def down() -> None:
    """End the stack that runs, in order. What it has stored stays; open jobs go on after the next start."""
    from omni_jobs.cli.reach import read_settings
    from omni_jobs.embedded.client import stop

    settings = read_settings()
    print(f"stopped the stack on {settings.home}" if stop(settings.home) else f"nothing runs on {settings.home}")


def migrate() -> None:
    """Bring the database's schema to what this version needs.

    Prints the version reached. The database is that of OMNI_DATABASE_URL, else the embedded one. Running it again does
    no harm.
    """
    from omni_jobs.cli.reader import database_errors, owner_url
    from omni_jobs.store import schema

    # The supervisor migrates its own database before it is ready, after a backup.
    with owner_url() as url, database_errors():
        print(f"schema {schema.upgrade(url)}")


def watch(
    target: Annotated[str, typer.Argument(metavar="DIR|s3://...", help="Folder, or bucket with a prefix.")],
    priority: Priority = None,
    deadline: Deadline = None,
    on_gap: OnGap = None,
) -> None:
    """Take in what appears in a folder or bucket, until interrupted.

    Results are put beside it. A deadline such as +2h counts for each file from when it is taken in.
    """
    from omni_jobs.cli.reach import connected, read_settings
    from omni_jobs.embedded.programs import settings_environment

    settings = read_settings()
    if deadline is not None:
        moment_of(deadline, "--deadline")
    said = {"--priority": priority, "--deadline": deadline, "--on-gap": on_gap}
    words = [_target(target), *(f"{name}={value}" for name, value in said.items() if value is not None)]
    if settings.database_url and settings.blob_url:
        raise typer.Exit(_run_watcher(words, settings_environment(settings)))
    if settings.api_url:
        raise UsageError(
            "a watcher needs the database and the store themselves: set OMNI_DATABASE_URL, OMNI_BROKER_URL and "
            "OMNI_BLOB_URL, or run it where the stack runs"
        )
    with connected(settings, start=True) as stack:
        raise typer.Exit(_run_watcher(words, settings_environment(stack.settings)))


def _run_watcher(arguments: Sequence[str], environment: dict[str, str]) -> int:
    """The watcher's exit status. Signals that would end us end it, and we go after it."""
    words = [sys.executable, "-m", "omni_jobs.intake", "watch", *arguments]
    child = subprocess.Popen(words, env={**os.environ, **environment})

    def pass_on(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    # The terminal sends this one to both.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - status if status < 0 else status


def _target(name: str) -> str:
    if name.startswith(REMOTE_PREFIX):
        return name
    path = Path(name).expanduser()
    if not path.is_dir():
        raise UsageError(f"no such folder to watch: {name}")
    return os.path.abspath(path)


def _announce(settings: "Settings") -> None:
    """Says what the supervisor, in the main thread, has come to."""
    from omni_jobs.embedded.home import running

    said = ""
    while True:
        state = running(settings.home)
        if state is not None and state.ready:
            break
        if state is not None and state.doing != said:
            print(said := state.doing, file=sys.stderr, flush=True)
        time.sleep(POLL_S)
    print(_welcome(settings, state), flush=True)


def _welcome(settings: "Settings", state: "State") -> str:
    return "\n".join(
        [
            f"API    {state.api_url}",
            f"docs   {state.api_url}/docs",
            f"key    {settings.home / 'key'}",
            "stop   Ctrl-C here, or `omni-jobs down`",
        ]
    )
