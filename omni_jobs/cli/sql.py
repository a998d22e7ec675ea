"""The results in SQL: `sql` for any statement that reads, `search` for words in speech, on screen and on paper."""

import csv
import json
import math
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperCommand

from omni_jobs.cli.examples import examples
from omni_jobs.cli.faults import fault_of
from omni_jobs.cli.reader import SqlError, database_errors
from omni_jobs.cli.terminal import plain
from omni_jobs.cli.times import clock
from omni_jobs.errors import OmniError, UsageError

if TYPE_CHECKING:
    import psycopg

TABLE_ROWS = 1000
ROWS_AT_ONCE = 100
NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
BOLD, PLAIN = "\033[1m", "\033[0m"
MARKED = re.compile(r"\*\*(.+?)\*\*", re.DOTALL)


class Words(TyperCommand):
    """A command whose words may begin with `-`: only its own options are options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        takes_value = {name: not getattr(option, "is_flag", False) for option in self.params for name in option.opts}
        takes_value |= dict.fromkeys(ctx.help_option_names, False)
        options: list[str] = []
        words: list[str] = []
        left = iter(args)
        for word in left:
            if word == "--":
                words += left
            elif word in takes_value:
                options += [word, *islice(left, 1)] if takes_value[word] else [word]
            else:
                (options if word.startswith("--") else words).append(word)
        return super().parse_args(ctx, [*options, "--", *words])


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=examples(
            "omni-jobs search budget",
            "omni-jobs search '\"quarterly budget\"' -draft --limit 5",
            "omni-jobs search budget --json | jq '.hits[0]'",
        ),
        cls=Words,
    )(search)
    app.command(
        epilog=examples(
            'omni-jobs sql "select name, state, duration_s from omni_v1.jobs"',
            'omni-jobs sql "select source_name, start_s, text from omni_v1.transcript_segments" --csv > talks.csv',
            'psql "$(omni-jobs sql --dsn)"',
        )
    )(sql)


def sql(
    statement: Annotated[
        str | None, typer.Argument(metavar="STATEMENT", help="One that reads; `-`: from stdin.")
    ] = None,
    dsn: Annotated[
        bool, typer.Option("--dsn", help="Print the read-only address, for psql, DBeaver, Grafana.")
    ] = False,
    max_rows: Annotated[
        int | None, typer.Option(min=1, help=f"Most rows to show; default: {TABLE_ROWS} in a table, else all.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list with an object per row.")] = False,
) -> None:
    """Ask the database, read-only. The views are those of the schema omni_v1.

    A statement may take 30 s. A list of --json that broke off ends with an object `error`, and the exit status says so.
    The address that --dsn prints holds while the stack runs: `omni-jobs up` keeps it running.
    """
    from omni_jobs.cli.reader import reader_url, session

    if dsn:
        # A stack that was started for this line would be gone by the time it is used.
        with reader_url(start=False) as url:
            print(url)
        return
    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other")
    statement = _typed() if statement == "-" else statement
    if not statement or not statement.strip():
        raise UsageError('expected a statement such as "select name, state from omni_v1.jobs", or --dsn')
    show = _print_csv if as_csv else _print_json if as_json else _print_rows
    most = max_rows or (TABLE_ROWS if show is _print_rows else None)
    text = _encoded(statement, "the statement")
    with reader_url() as url, session(url) as connection, connection.cursor() as cursor:
        _show(cursor, text, show, most)


def _typed() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UsageError("expected a statement in UTF-8 on stdin") from error


def _encoded(text: str, what: str) -> bytes:
    """
    Raises:
        UsageError: what was typed is no text; its bytes came as surrogates.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"expected {what} in UTF-8, got {text!r}") from error


def _show(cursor: "psycopg.Cursor[Any]", statement: bytes, show: Callable[..., None], most: int | None) -> None:
    # A few rows at a time off the wire: memory stays flat, and what is not shown is not sent. The time limit of a
    # statement runs until the last row is taken, so it pays to be quick.
    # Bytes: psycopg takes a str for one of ours only.
    found = cast("Generator[Sequence[Any]]", cursor.stream(statement, size=_rows_at_once()))
    with closing(found) as stream:
        first = _first(cursor, stream)
        names = _distinct([column.name for column in cursor.description or ()])
        rows = _chain(first, stream)
        show(names, islice(rows, most))
        if most is not None and next(rows, None) is not None:
            print(f"only the first {most} rows are shown: --max-rows", file=sys.stderr)


def _rows_at_once() -> int:
    from psycopg import capabilities

    return ROWS_AT_ONCE if capabilities.has_stream_chunked() else 1


def _first(cursor: "psycopg.Cursor[Any]", stream: Iterator[Sequence[Any]]) -> Sequence[Any] | None:
    import psycopg

    try:
        return next(stream, None)
    except psycopg.Error as error:
        # What the server refused has an SQLSTATE; this it has done.
        if error.sqlstate or isinstance(error, psycopg.OperationalError):
            raise
        # It may be in the middle of a COPY: nothing more can be said on this connection, not even rollback.
        cursor.connection.close()
        raise SqlError(
            "expected one statement that answers with rows, such as select; begin, set and copy do not"
        ) from error


def search(
    text: Annotated[list[str], typer.Argument(metavar="TEXT", help='Words; "phrases"; or; -without (exclude a word).')],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most hits to show.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Find words that were said, shown or printed, with time or page."""
    from psycopg.rows import dict_row

    from omni_jobs.cli.reader import reader_url, session

    query = " ".join(text)
    _encoded(query, "words")
    with reader_url() as url, session(url) as connection, connection.cursor(row_factory=dict_row) as cursor:
        hits = cursor.execute("select * from omni_v1.search(%s, %s)", (query, limit)).fetchall()
    if as_json:
        print(json.dumps({"query": query, "hits": _plain(hits)}, indent=2))
        return
    for hit in hits:
        print(_line(hit, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    if not hits:
        print(f"no hits for {query}", file=sys.stderr)


def _line(hit: dict[str, Any], *, colour: bool) -> str:
    place = f"page {hit['page']}" if hit["page"] is not None else clock(hit["start_s"] or 0.0)
    snippet = _one_line(hit["snippet"])
    if colour:
        snippet = MARKED.sub(rf"{BOLD}\1{PLAIN}", snippet)
    return f"{hit['medium']:<7} {_one_line(hit['source_name'])}  {place:>7}  {snippet}"


def _one_line(text: str) -> str:
    return " ".join(plain(text).split())


def _chain(first: Sequence[Any] | None, rest: Iterator[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    if first is not None:
        yield first
        yield from rest


def _distinct(names: Sequence[str]) -> list[str]:
    """As keys of an object: the second `id` becomes `id_2`."""
    found: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in found:
            number += 1
            candidate = f"{name}_{number}"
        found.append(candidate)
    return found


def _print_json(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Row by row, so that memory stays flat. A row that does not come any more is told in its place."""
    mark = "["
    try:
        with database_errors():
            for row in rows:
                sys.stdout.write(f"{mark}\n  {_object(names, row)}")
                mark = ","
    except (OmniError, KeyboardInterrupt) as error:
        if mark == "[":
            raise
        fault = fault_of(error)
        print(mark, json.dumps(fault.document), sep="\n  ", end="\n]\n", flush=True)
        raise typer.Exit(fault.say()) from error
    print("[]" if mark == "[" else "\n]")


def _object(names: Sequence[str], row: Sequence[Any]) -> str:
    try:
        return ENCODER.encode(dict(zip(names, row, strict=True)))
    except ValueError:
        # A number that JSON does not have.
        return ENCODER.encode(dict(zip(names, map(_plain, row), strict=True)))


def _print_csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(value) for value in row])


def _cell(value: Any) -> Any:
    match value:
        case dict() | list():
            return json.dumps(_plain(value))
        case bytes() | memoryview():
            return f"\\x{value.hex()}"
        case _:
            return value


def _print_rows(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from omni_jobs.cli.tables import print_table

    shown = list(rows)
    if names:
        print_table(names, shown)
    print(f"{len(shown)} row{'' if len(shown) == 1 else 's'}", file=sys.stderr)


def _plain(value: Any) -> Any:
    """A value of PostgreSQL as JSON has it; what JSON has no word for becomes text."""
    from datetime import date, datetime, time
    from decimal import Decimal

    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else NOT_FINITE[str(value)]
        case Decimal():
            return _plain(float(value)) if not value.is_finite() or value % 1 else int(value)
        case datetime() | date() | time():
            return value.isoformat()
        case bytes() | memoryview():
            return bytes(value).hex()
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
        case _:
            return str(value)


ENCODER = json.JSONEncoder(allow_nan=False, default=_plain)
