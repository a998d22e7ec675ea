"""`omni-jobs demo`: the path from files to rows on real inputs, as a person would type it."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from omni_jobs.cli.examples import examples

INPUTS = ("two_cities.wav", "bigbuckbunny.mp4", "bikes.mp4", "report.pdf")
QUERIES = (
    ("Every word with its time", "select start_s, end_s, text, confidence from omni_v1.transcript_words"
     " where source_name = 'two_cities.wav' order by job_id desc, start_s limit 8"),
    ("Shots of a video, told from evidence", "select start_s, end_s, text from omni_v1.captions"
     " where source_name = 'bikes.mp4' order by start_s limit 8"),
    ("A table out of the PDF", "select page, kind, table_rows from omni_v1.page_blocks"
     " where source_name = 'report.pdf' and kind = 'table' limit 1"),
    ("Nothing is missing silently", "select source_name, medium, state, reason, count(*) as entries,"
     " round(sum(duration_s), 1) as seconds from omni_v1.coverage group by 1, 2, 3, 4 order by 1, 2, 3"),
)  # fmt: skip


def add_to(app: typer.Typer) -> None:
    app.command(epilog=examples("omni-jobs demo", "OMNI_HOME=/tmp/omni-demo omni-jobs demo --out /tmp/omni-demo-out"))(
        demo
    )


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for inputs and results.")] = Path(
        "omni-out/demo"
    ),
) -> None:
    """Take a recording, two videos and a PDF from file to SQL, and show what came out.

    Each line that begins with `$` is a command that you can type. The rows stay under OMNI_HOME.
    """
    from omni_jobs.cli.reach import reach, say
    from omni_jobs.embedded.client import stop

    inputs = _inputs(out / "inputs")
    with reach(start=True, say=say) as stack:
        home = stack.settings.home
        _type("run", *inputs, "--no-reuse", "--force", "--out", str(out))
        _show("What came out of the recording (two_cities.srt)", (out / "two_cities.srt").read_text(), lines=8)
        _show("What came out of the paper (report.md)", (out / "report.md").read_text(), lines=30)
        for title, query in QUERIES:
            print(f"\n{title}")
            _type("sql", query)
        print("\nOne search over sound, screen and paper")
        _type("search", '"worst of times" or harbour')
        _say_where(home)
        print("\nThe same input once more: answered from what is there, and it says so")
        _type("run", inputs[0], "--out", str(out / "again"), "--force")
        _type("sql", "select name, state, reused_from from omni_v1.jobs order by created_at desc limit 1")
    if stop(home):
        print("\nThe demo's servers have stopped; its rows are kept.")


def _inputs(folder: Path) -> list[str]:
    """The samples, written by the workers' side: only that may open media."""
    made = subprocess.run([sys.executable, "-m", "workers.samples", str(folder)], stdout=subprocess.PIPE, text=True)
    if made.returncode:
        raise typer.Exit(made.returncode)
    return [str(folder / name) for name in INPUTS]


def _type(*words: str) -> None:
    """Run one of our own commands, and show it as it would be typed."""
    print(f"\n$ omni-jobs {shlex.join(words)}", flush=True)
    ran = subprocess.run([sys.executable, "-m", "omni_jobs.cli", *words])
    if ran.returncode:
        raise typer.Exit(ran.returncode)


def _show(title: str, text: str, lines: int) -> None:
    print(f"\n{title}")
    for line in text.splitlines()[:lines]:
        print(f"  {line}")


def _say_where(home: Path) -> None:
    command = shlex.quote(str(Path(sys.executable).with_name("omni-jobs")))
    start = f"OMNI_HOME={shlex.quote(str(home))} {command}"
    print("\nTo look at these rows later, start the stack again in one terminal:")
    print(f"  {start} up")
    print("and ask it in another:")
    print(f'  {start} sql "select * from omni_v1.transcript_segments limit 5"')
    print(f"  {start} search 'worst of times'", flush=True)
