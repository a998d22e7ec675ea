"""`omni-jobs run`: files in, results out, whatever has to be started for it."""

import json
import os
import signal
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from omni_jobs.cli.examples import examples
from omni_jobs.cli.terminal import plain
from omni_jobs.cli.times import seconds_of
from omni_jobs.errors import ErrorType, Problem, UsageError
from omni_jobs.moments import moment_of

if TYPE_CHECKING:
    from omni_jobs.cli.follow import Entry, Run
    from omni_jobs.cli.progress import View


class TaskChoice(StrEnum):
    AUTO = "auto"
    TRANSCRIBE = "transcribe"
    CAPTION = "caption"
    DOCUMENT = "document"


OPTION_OF = {"pages": "--pages", "language": "--language", "start_s": "--from", "end_s": "--to"}
FAILED, PARTIAL, INTERRUPTED = 1, 3, 130

Tasks = Annotated[
    list[TaskChoice] | None,
    typer.Option(
        "--task", metavar="TASK", help="transcribe, caption or document, also several; default: auto, by the bytes."
    ),
]
Language = Annotated[str, typer.Option(metavar="CODE", help="Language spoken, such as `en`; default: detect it.")]
Pages = Annotated[str, typer.Option(metavar="LIST", help="Pages of a document, such as 1-3,7.")]
From = Annotated[str | None, typer.Option("--from", metavar="TIME", help="Start there: seconds or hh:mm:ss.")]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Stop there: seconds or hh:mm:ss.")]
PasswordFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with the password of encrypted PDFs, in one line.")
]
Speakers = Annotated[
    bool | None,
    typer.Option(
        "--speakers/--no-speakers",
        help="Tell apart who speaks; default: where the extra `speakers` is installed.",
        show_default=False,
    ),
]
Priority = Annotated[
    int | None,
    typer.Option(min=-100, max=100, metavar="N", help="Before (up to 100) or after (down to -100) your other jobs."),
]
Deadline = Annotated[
    str | None, typer.Option(metavar="TIME", help="When it must be done: +2h (s, m, h, d) or ISO 8601.")
]
OnGap = Annotated[
    Literal["partial", "fail"] | None,
    typer.Option("--on-gap", help="A part without an answer: deliver the rest (default), or fail.", show_default=False),
]
NoReuse = Annotated[bool, typer.Option("--no-reuse", help="Work again on what was answered before.")]


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "omni-jobs run talk.mp4",
            "omni-jobs run recordings/ 'calls/**/*.mp3' --task transcribe --language en",
            "omni-jobs run film.mp4 --from 00:10:00 --to 00:12:30 --out film-notes",
            "omni-jobs run interview.wav --speakers",
            "omni-jobs run verdict.pdf --priority 50 --deadline +2h --on-gap fail",
            "omni-jobs run report.pdf --pages 1-10 --password-file secret.txt",
            "omni-jobs run talk.mp4 --json | jq -r '.jobs[].files.srt'",
        )
    )(run)


def run(
    paths: Annotated[list[str], typer.Argument(metavar="FILE|FOLDER|GLOB...", help="Files; folders with all in them.")],
    task: Tasks = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")] = Path("omni-out"),
    language: Language = "",
    pages: Pages = "",
    start: From = None,
    end: To = None,
    speakers: Speakers = None,
    password_file: PasswordFile = None,
    priority: Priority = None,
    deadline: Deadline = None,
    on_gap: OnGap = None,
    no_reuse: NoReuse = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite results of that name, never a FILE.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Turn files into results: transcript, captions, pages, summary.

    Uses the stack that runs, or starts one that ends by itself. Writes NAME.result.json, .txt, .srt, .vtt and .md, as
    far as the file has them, and never over another file. Typing the same command again goes on with what is open.

    Exit status: 0 all succeeded, 1 some failed, 3 some have gaps, 2 usage, 130 interrupted (the jobs go on).
    """
    from omni_jobs.cli.follow import Entry, Run
    from omni_jobs.cli.inputs import expand
    from omni_jobs.cli.outputs import Shelf
    from omni_jobs.cli.reach import reach

    request = request_of(task, language, pages, start, end, speakers, password_file, no_reuse)
    request |= order_of(priority, deadline, on_gap, request)
    found = expand(paths)
    folder = _made(out)
    work: Run | None = None
    try:
        with view_for(len(set(found))) as view, reach(start=True, say=view.say) as stack:
            # A wrong key or address is said once, not per file.
            stack.client.list(limit=1)
            work = Run(stack, found, request, shelf=Shelf(folder, found, force=force), view=view)
            work.go()
    except KeyboardInterrupt:
        _at_once_next_time()
        entries = work.entries if work else {path: Entry(path) for path in found}
        _say_goodbye(entries.values())
        if as_json:
            _print_document(entries, found)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        _print_document(work.entries, found)
    else:
        _print_summary(work, folder)
    raise typer.Exit(status_of(work.entries.values()))


def request_of(
    task: Sequence[TaskChoice] | None,
    language: str,
    pages: str,
    start: str | None,
    end: str | None,
    speakers: bool | None,
    password_file: Path | None,
    no_reuse: bool,
) -> dict[str, Any]:
    """The request that the options mean.

    Raises:
        UsageError: an option has a value that it cannot have; it is named as it was typed.
    """
    from pydantic import ValidationError

    from omni_jobs.options import Options

    given: dict[str, Any] = {"language": language, "pages": pages}
    if start is not None:
        given["start_s"] = seconds_of(start, "--from")
    if end is not None:
        given["end_s"] = seconds_of(end, "--to")
    if end is not None and start is not None and given["end_s"] <= given["start_s"]:
        raise UsageError(f"--to must lie after --from, got --from {start} --to {end}")
    if speakers is not None:
        given["speakers"] = speakers
    tasks = [choice.value for choice in dict.fromkeys(task or ())]
    if len(tasks) > 1 and TaskChoice.AUTO in tasks:
        raise UsageError("--task auto stands alone: it decides by the bytes")
    try:
        options = Options(**{name: value for name, value in given.items() if value != ""})
    except ValidationError as error:
        fault = error.errors()[0]
        name = OPTION_OF.get(str(fault["loc"][0]), str(fault["loc"][0]))
        raise UsageError(f"{name}: {fault['msg'].removeprefix('Value error, ')}, got {fault['input']!r}") from error
    request: dict[str, Any] = {"options": options.model_dump(mode="json", exclude_unset=True)}
    if tasks:
        request["task"] = tasks[0] if len(tasks) == 1 else tasks
    if no_reuse:
        request["reuse"] = False
    if password_file is not None:
        request["password"] = password_in(password_file)
    return request


def order_of(
    priority: int | None, deadline: str | None, on_gap: str | None, request: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of a request that say when it is done, and whether gaps are good enough.

    Raises:
        UsageError: the deadline is no time to come.
    """
    said: dict[str, Any] = {}
    if priority is not None:
        said["priority"] = priority
    if deadline is not None:
        said["deadline"] = moment_of(deadline, "--deadline")
    if on_gap is not None:
        said["options"] = {**request.get("options", {}), "on_gap": on_gap}
    return said


def status_of(entries: Iterable["Entry"]) -> int:
    """The exit status for what became of the files."""
    entries = list(entries)
    if any(entry.state in ("failed", "cancelled") for entry in entries):
        return FAILED
    return PARTIAL if any(entry.state == "partial" for entry in entries) else 0


def view_for(files: int) -> "View":
    from omni_jobs.cli.progress import Lines, Table

    return Table(files) if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else Lines()


def password_in(path: Path) -> str:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--password-file: cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(lines) != 1 or not lines[0]:
        raise UsageError(f"--password-file: expected one line in {path}, got {len(lines)}")
    return lines[0]


def _made(folder: Path) -> Path:
    folder = Path(os.path.abspath(folder.expanduser()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out: cannot make {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--out: cannot write into {folder}")
    return folder


def _at_once_next_time() -> None:
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))


def _say_goodbye(entries: Collection["Entry"]) -> None:
    from omni_jobs.cli.reach import say

    going = {entry.job["id"]: entry for entry in entries if entry.job and not entry.ended}
    unsent = [entry for entry in entries if not entry.job and not entry.ended]
    for entry in unsent:
        entry.problem = Problem(ErrorType.INTERNAL, "interrupted before it was submitted", retryable=True)
    if going:
        say("interrupted; these jobs go on:")
        for job_id, entry in going.items():
            say(f"  {job_id}  {entry.path.name}")
        say(f"look with `omni-jobs status {next(iter(going))}`, or type the same command again to go on watching")
    else:
        say("interrupted")
    if unsent:
        say("not submitted: " + ", ".join(entry.path.name for entry in unsent))


def _print_document(entries: Mapping[Path, "Entry"], paths: Sequence[Path]) -> None:
    print(json.dumps({"jobs": [entries[path].as_json() for path in paths]}, indent=2))


def _print_summary(work: "Run", folder: Path) -> None:
    from collections import Counter

    counts = Counter(entry.state for entry in work.entries.values())
    said = ", ".join(f"{number} {state}" for state, number in counts.items())
    files = {path for entry in work.entries.values() for path in entry.files.values()}
    print(plain(f"{said}; {len(files)} files in {folder}"))
