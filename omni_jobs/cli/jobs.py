"""Jobs: submit, list, status, result, cancel, retry, delete, dead, logs."""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from omni_jobs.cli.examples import examples
from omni_jobs.cli.faults import fault_of
from omni_jobs.cli.reach import say
from omni_jobs.cli.run import (
    FAILED,
    PARTIAL,
    Deadline,
    From,
    Language,
    NoReuse,
    OnGap,
    Pages,
    PasswordFile,
    Priority,
    Speakers,
    Tasks,
    To,
    order_of,
    password_in,
    request_of,
)
from omni_jobs.cli.terminal import plain
from omni_jobs.cli.times import clock, size
from omni_jobs.errors import NotFound, OmniError, Refused, Unavailable, UsageError

if TYPE_CHECKING:
    from omni_jobs.client import Client

State = Literal["queued", "running", "succeeded", "partial", "failed", "cancelled"]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its id, or the first 8 or more characters of it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
OPEN_STATES = ("queued", "running")
STATUS_OF = {"succeeded": 0, "partial": PARTIAL}
SHORTEST_PREFIX = 8
ID_PREFIX = re.compile(r"[0-9a-f]{8}(-[0-9a-f-]{0,27})?")
FULL_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FOLLOW_EVERY_S = 0.5
MOST_AT_ONCE = 100


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "omni-jobs submit talk.mp4",
            "omni-jobs submit s3://media/talk.mp4 --task transcribe --wait",
            "omni-jobs submit file:///srv/media/report.pdf --pages 1-10 --json",
            "omni-jobs submit talk.mp4 --priority 50 --deadline +2h",
        )
    )(submit)
    app.command("list", epilog=examples("omni-jobs list", "omni-jobs list --state running --json"))(list_jobs)
    app.command(epilog=examples("omni-jobs status 01993f5a", "omni-jobs status 01993f5a --json | jq .progress"))(status)
    app.command(
        epilog=examples(
            "omni-jobs result 01993f5a --format srt -o talk.srt",
            "omni-jobs result 01993f5a | jq '.sources[0].summary'",
        )
    )(result)
    app.command(epilog=examples("omni-jobs cancel 01993f5a"))(cancel)
    app.command(
        epilog=examples("omni-jobs retry 01993f5a", "omni-jobs retry 01993f5a --password-file secret.txt --json")
    )(retry)
    app.command(epilog=examples("omni-jobs delete 01993f5a", "omni-jobs delete 01993f5a 01993f5b --yes --json"))(delete)
    app.command(epilog=examples("omni-jobs dead", "omni-jobs dead --json | jq '.units[].error.message'"))(dead)
    app.command(epilog=examples("omni-jobs logs 01993f5a", "omni-jobs logs 01993f5a --follow --json"))(logs)


def submit(
    source: Annotated[
        str, typer.Argument(metavar="URI|FILE", help="s3:// or file:// that the server reads, or a file.")
    ],
    task: Tasks = None,
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
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the job has ended, with a status like `run`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Submit one source and print the id of its job."""
    from omni_jobs.cli.follow import submit_problem
    from omni_jobs.cli.reach import reach
    from omni_jobs.errors import SourceError

    request = request_of(task, language, pages, start, end, speakers, password_file, no_reuse)
    request |= order_of(priority, deadline, on_gap, request)
    remote = "://" in source and not Path(source).exists()
    path = Path(source).expanduser()
    if not remote and not path.exists():
        raise UsageError(f"no such file: {source}")
    if not remote and path.is_dir():
        raise UsageError(f"{source} is a folder: `omni-jobs run {source}` takes all files in it")
    with reach(start=True) as stack:
        if remote:
            job = stack.client.submit_uri(source, request)
        else:
            try:
                job = stack.client.submit_file(path, request)
            except OSError as error:
                problem = submit_problem(error)
                raise SourceError(problem.type, problem.message) from error
        if not as_json:
            print(job["id"], flush=True)
        if wait:
            job = stack.client.wait(job["id"])
            if not as_json:
                print(job["state"])
    if as_json:
        _print_json(job)
    if wait:
        raise typer.Exit(STATUS_OF.get(job["state"], FAILED))


def list_jobs(
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most jobs to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from omni_jobs.cli.progress import phase_of
    from omni_jobs.cli.reach import reach
    from omni_jobs.cli.tables import print_table

    found: list[dict[str, Any]] = []
    with reach() as stack:
        for job in _newest(stack.client, state, at_once=min(limit, MOST_AT_ONCE)):
            found.append(job)
            if len(found) == limit:
                break
    if as_json:
        _print_json({"jobs": found})
        return
    rows = [[job["id"], phase_of(job), _share(job), job["created_at"][:19], job["name"]] for job in found]
    print_table(["id", "state", "done", "created", "name"], rows)


def status(job: JobId, as_json: AsJson = False) -> None:
    """Show one job: phase, progress, coverage, error, units."""
    from omni_jobs.cli.reach import reach

    with reach() as stack:
        found = stack.client.get(_full_id(stack.client, job))
    if as_json:
        _print_json(found)
        return
    for name, text in _described(found):
        print(f"{name:<10}{plain(text)}")


def result(
    job: JobId,
    format: Annotated[Literal["json", "srt", "vtt", "txt", "md"], typer.Option(help="Which form of it.")] = "json",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write here, not to stdout.")
    ] = None,
) -> None:
    """Fetch the result of a job."""
    from omni_jobs.cli.outputs import require_writable, write_whole
    from omni_jobs.cli.reach import reach

    if output is not None:
        require_writable(output)
    with reach() as stack:
        chunks = stack.client.result(_full_id(stack.client, job), format)
        if output is not None:
            write_whole(output, chunks)
            return
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def cancel(job: JobId, as_json: AsJson = False) -> None:
    """End a job; what it has done is dropped."""
    from omni_jobs.cli.reach import reach

    with reach() as stack:
        found = stack.client.cancel(_full_id(stack.client, job))
    if as_json:
        _print_json(found)
    else:
        print(f"{found['id']} {found['state']}")


def retry(job: JobId, password_file: PasswordFile = None, as_json: AsJson = False) -> None:
    """Try again what a failed or partial job could not answer. What it has answered stays."""
    from omni_jobs.cli.reach import reach

    password = password_in(password_file) if password_file is not None else ""
    with reach() as stack:
        found = stack.client.retry(_full_id(stack.client, job), password)
    if as_json:
        _print_json(found)
    else:
        print(f"{found['id']} {found['state']}, revision {found['revision']}")


def delete(
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="Ids, or the first 8 or more characters.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove jobs with their results, rows and stored bytes; open ones are cancelled by it.

    Asks before. Files that `run` or a watcher wrote stay.
    """
    from omni_jobs.cli.reach import reach

    with reach() as stack:
        client = stack.client
        # All are looked at before the first is touched.
        found = [client.get(job_id) for job_id in dict.fromkeys(_full_id(client, job) for job in jobs)]
        if not yes and not _confirmed(found):
            raise Refused("nothing was deleted")
        deleted = [_deleted(client, job, quiet=as_json) for job in found]
    if as_json:
        _print_json({"jobs": deleted})
    if any(one["error"] for one in deleted):
        raise typer.Exit(FAILED)


def _confirmed(jobs: list[dict[str, Any]]) -> bool:
    for job in jobs:
        say(f"{job['id']}  {job['state']}  {job['name']}")
    what = "this job" if len(jobs) == 1 else f"these {len(jobs)} jobs"
    # Not input(): that would write to stdout.
    print(f"Delete {what} with all results, rows and stored bytes? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
        raise UsageError("nobody answered, and nothing was deleted: --yes deletes without asking")
    return answer.strip().lower() in ("y", "yes")


def _deleted(client: "Client", job: dict[str, Any], *, quiet: bool) -> dict[str, Any]:
    """What became of one; a failure does not keep the others."""
    error: dict[str, Any] | None = None
    try:
        client.delete(job["id"])
    except OmniError as failure:
        fault = fault_of(failure)
        fault.say()
        error = fault.document["error"]
    else:
        if not quiet:
            print(plain(f"deleted {job['id']}  {job['name']}"), flush=True)
    return {"id": job["id"], "name": job["name"], "deleted": error is None, "error": error}


def dead(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most units to show, the newest first.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the units that were given up, with the error of the last try: the gaps of your results.

    `omni-jobs retry JOB` tries them again.
    """
    from omni_jobs.cli.reach import reach
    from omni_jobs.cli.tables import print_table

    with reach() as stack:
        units = stack.client.dead(limit)
    if as_json:
        _print_json({"units": units})
        return
    if not units:
        print("no dead units")
        return
    print_table(
        ["job", "source", "kind", "no", "lost", "failed", "rejected", "error"],
        [
            [unit["job_id"], unit["source"] or unit["job_name"], unit["kind"], unit["position"], unit["lost"],
             unit["failed"], unit["rejected"], _error_text(unit["error"])]
            for unit in units
        ],
    )  # fmt: skip


def _error_text(error: dict[str, Any] | None) -> str:
    return f"{error['type']}: {error['message']}" if error else ""


def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document per line and event.")] = False,
) -> None:
    """Show the numbered events of a job."""
    from omni_jobs.cli.reach import reach

    with reach() as stack:
        for event in _events(stack.client, _full_id(stack.client, job), follow=follow):
            if as_json:
                line = json.dumps(event)
            else:
                data = " ".join(f"{name}={_short(value)}" for name, value in event["data"].items())
                line = f"{event['seq']:>5}  {event['at']}  {event['type']}  {data}".rstrip()
            print(plain(line), flush=True)


def _events(client: "Client", job_id: str, *, follow: bool) -> Iterator[dict[str, Any]]:
    after, silent_since = 0, None
    while True:
        try:
            # Asked before the events: what happened until it ended is then among them.
            over = not follow or client.get(job_id)["state"] not in OPEN_STATES
            while events := client.events(job_id, after):
                yield from events
                after = events[-1]["seq"]
            silent_since = None
        except Unavailable:
            silent_since = silent_since or time.monotonic()
            if not follow or time.monotonic() - silent_since > 60:
                raise
            over = False
        if over:
            return
        time.sleep(FOLLOW_EVERY_S)


def _newest(client: "Client", state: str | None = None, *, at_once: int = MOST_AT_ONCE) -> Iterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        page = client.list(limit=at_once, cursor=cursor, state=state)
        yield from page["jobs"]
        cursor = page.get("next")
        if not cursor:
            return


def _full_id(client: "Client", text: str) -> str:
    """The id that was meant.

    Raises:
        UsageError: it cannot be one, or several jobs begin so.
        NotFound: none begins so.
    """
    wanted = text.strip().lower()
    if FULL_ID.fullmatch(wanted):
        return wanted
    if not ID_PREFIX.fullmatch(wanted):
        raise UsageError(f"expected a job id, or at least its first {SHORTEST_PREFIX} characters, got {text!r}")
    found: list[str] = []
    for job in _newest(client):
        # Ids rise with time, and the newest come first.
        if job["id"][: len(wanted)] < wanted:
            break
        if job["id"].startswith(wanted):
            found.append(job["id"])
    if not found:
        raise NotFound(f"no job {text}")
    if len(found) > 1:
        raise UsageError(f"{len(found)} jobs begin with {text}: {', '.join(found[:5])}{', ...' if found[5:] else ''}")
    return found[0]


def _described(job: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from omni_jobs.cli.progress import fraction_of, place_of

    progress = job.get("progress") or {}
    yield "job", job["id"]
    yield "name", job["name"]
    yield "state", job["state"] + (f" ({job['phase']})" if job["state"] in OPEN_STATES else "")
    if job["state"] in OPEN_STATES:
        yield "progress", f"{fraction_of(job):.0%} {place_of(job)}".rstrip()
    if progress.get("units_total"):
        dead = f", {progress['units_dead']} dead" if progress.get("units_dead") else ""
        yield "units", f"{progress['units_done']} of {progress['units_total']} done{dead}"
    for medium, totals in (job.get("coverage") or {}).items():
        amounts = [f"{state} {_amount(medium, totals.get(state) or 0)}" for state in ("done", "empty", "failed")]
        yield "coverage", f"{medium}: {', '.join(amounts)}"
    for source in job.get("sources") or []:
        facts = [source["name"], source.get("container"), _length(source)]
        facts += [size(source["size_bytes"])] if source.get("size_bytes") is not None else []
        yield "source", ", ".join(filter(None, facts))
        if source.get("error"):
            yield "", f"{source['error']['type']}: {source['error']['message']}"
    if job.get("error"):
        yield "error", f"{job['error']['type']}: {job['error']['message']}"
    if job.get("reused_from"):
        yield "reused", f"answered by job {job['reused_from']}"
    yield "created", job["created_at"]
    if job.get("finished_at"):
        yield "finished", job["finished_at"]
    if job.get("formats"):
        yield "formats", ", ".join(job["formats"])


def _share(job: dict[str, Any]) -> str:
    from omni_jobs.cli.progress import fraction_of

    return f"{fraction_of(job):.0%}"


def _amount(medium: str, value: float) -> str:
    return f"{value:g}" if medium == "page" else clock(value)


def _length(source: dict[str, Any]) -> str:
    if source.get("duration_s"):
        return clock(source["duration_s"])
    return f"{source['pages']} pages" if source.get("pages") else ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))
