"""Who answers: `omni-jobs backend test URL` tries a model server out before it is used."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from shlex import quote
from typing import Annotated, Any

import typer

from omni_jobs.cli.examples import examples
from omni_jobs.cli.terminal import plain
from omni_jobs.errors import Unavailable, UsageError

# In a process of its own: the service never imports the workers, and their libraries take memory and time.
TRIAL = (sys.executable, "-m", "workers.backends.remote.trial")
MARKS = {"ok": "ok", "note": "note", "bad": "no"}
COLOURS = {"ok": "green", "note": "yellow", "bad": "red"}
EXAMPLES = (
    "omni-jobs backend test http://gpu-1:8000/v1",
    "omni-jobs backend test http://127.0.0.1:30000 --model nemotron_3_nano_omni",
    "OMNI_REMOTE_KEY=$KEY omni-jobs backend test https://models.example.org/v1 --json | jq .settings",
)


def add_to(app: typer.Typer) -> None:
    backend = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Try out who answers units.",
        epilog=examples(*EXAMPLES),
    )
    backend.command("test", epilog=examples(*EXAMPLES))(test)
    # With one command typer would leave the word `test` away.
    backend.callback()(lambda: None)
    app.add_typer(backend, name="backend")


def test(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Base URL of the server's API; `/v1` where it has no path.")
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Of those it serves; else OMNI_REMOTE_MODEL, or its first.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Try a model server: text, JSON, reasoning, image, sound, video, and what it leaves out without a word.

    Any server that speaks OpenAI's API: vLLM, SGLang, TensorRT-LLM, llama.cpp, Ollama, NIM. It is asked about twenty
    short questions with made-up media, and the settings that follow are shown. A key is read from OMNI_REMOTE_KEY.

    Exit status: 0 when it can answer every kind of unit with those settings, 1 when something is missing.
    """
    checks: list[dict[str, Any]] = []
    report: dict[str, Any] | None = None
    for said in _said(url, model):
        if "error" in said:
            raise UsageError(said["error"])
        if "check" in said:
            checks.append(said["check"])
            _progress(said["check"])
        report = said.get("report", report)
    if report is None:
        raise Unavailable("the trial broke off; OMNI_LOG_LEVEL=DEBUG may show why")
    if as_json:
        print(json.dumps({**report, "url": url, "checks": checks}, indent=2))
    else:
        _show(checks, report)
    raise typer.Exit(0 if report["ok"] else 1)


def _said(url: str, model: str) -> Iterator[dict[str, Any]]:
    """What the trial says, line by line; it ends with us."""
    words = [*TRIAL, url, *(["--model", model] if model else [])]
    # Its log would say each refusal a second time.
    environment = {"OMNI_LOG_LEVEL": "ERROR", **os.environ}
    trial = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment)
    assert trial.stdout is not None
    try:
        for line in trial.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    finally:
        trial.terminate()
        trial.stdout.close()
        trial.wait()


def _progress(check: dict[str, Any]) -> None:
    if sys.stderr.isatty():
        print(plain(f"{check['name']}: {check['found']}"), file=sys.stderr, flush=True)


def _show(checks: list[dict[str, Any]], report: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "what", "found", "what follows", box=SIMPLE_HEAD, pad_edge=False)
    for check in checks:
        mark = Text(MARKS[check["state"]], style=COLOURS[check["state"]])
        texts = (check["name"], check["found"], check["follows"])
        table.add_row(mark, *(Text(plain(text), overflow="fold") for text in texts))
    # Piped into a file, lines are as long as they are.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    names = {"span": "speech", "clip": "captions", "page": "pages", "reduce": "summaries"}
    able = [names[kind] for kind in report["kinds"]]
    lacking = [name for kind, name in names.items() if kind not in report["kinds"]]
    without = f"; not: {', '.join(lacking)}" if lacking else ""
    print(f"can answer: {', '.join(able) or 'nothing'}{without}")
    for name, value in report["settings"].items():
        print(plain(f"export {name}={quote(value)}"))
