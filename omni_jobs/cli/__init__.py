"""The command line: `omni-jobs ...`, one file per noun.

A user's mistake is one line on stderr, `error: ...`, and with `--json` a document on stdout as well; a stack trace
shows only with OMNI_DEBUG=1. Exit status: 0 done, 1 failed, 2 not meant as it stands, 3 done with gaps (`run`), 130
interrupted. What takes long to import is imported inside the commands.
"""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from omni_jobs.cli import backends, contract, demo, doctor, jobs, models, run, sql, stack, tenants
from omni_jobs.cli.examples import examples
from omni_jobs.cli.faults import INTERRUPTED, USAGE, Interrupted, fault_of


class Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted") from error


app = typer.Typer(
    cls=Commands,
    name="omni-jobs",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "omni-jobs run talk.mp4",
        "omni-jobs run recordings/ --out results --json",
        'omni-jobs search "quarterly budget"',
        "omni-jobs doctor",
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"omni-jobs {doctor.our_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn audio, video and PDF into data that can be queried."""


# In the order in which the help shows them.
for noun in (run, jobs, sql, stack, models, tenants, backends, contract, doctor, demo):
    noun.add_to(app)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and ends the process with its status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(_status_of(words))


def _status_of(words: list[str]) -> int:
    try:
        command = typer.main.get_command(app)
        status = command.main(words, prog_name="omni-jobs", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except TyperException as error:
        # Without arguments typer raises its help.
        if not error.format_message() or error.format_message().startswith("Usage:"):
            print(error.format_message())
            return USAGE
        return _report(words, error)
    except typer.Abort:
        return INTERRUPTED
    except (Exception, KeyboardInterrupt) as error:
        return _report(words, error)


def _report(words: list[str], error: BaseException) -> int:
    fault = fault_of(error)
    status = fault.say()
    # The option may not have been parsed: so the words decide.
    if "--json" in words[: words.index("--")] if "--" in words else "--json" in words:
        print(json.dumps(fault.document))
    return status
