"""`sql` and `search` on a real server: they read, and cannot do anything else."""

import csv
import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import typer

from omni_jobs.cli import reader
from omni_jobs.cli.sql import _print_json
from tests.omni_jobs.cli.conftest import Run

pytestmark = pytest.mark.servers


JOB, SOURCE = "01993f5a-0000-7000-8000-000000000001", "01993f5a-0000-7000-8000-000000000002"


@pytest.fixture(scope="module")
def filled(file_database_url: str) -> str:
    """A database with one delivered job; nobody here can change it."""
    with psycopg.connect(file_database_url) as owner:
        owner.execute("insert into omni.tenants (tenant_id) values ('local') on conflict do nothing")
        owner.execute(
            "insert into omni.jobs (job_id, tenant_id, name, origin, state, result_revision)"
            " values (%s, 'local', 'talk', 'api', 'succeeded', 1)",
            (JOB,),
        )
        owner.execute(
            "insert into omni.sources (source_id, job_id, position, uri, name, duration_s)"
            " values (%s, %s, 0, 'upload:talk.mp4', 'talk.mp4', 61.5)",
            (SOURCE, JOB),
        )
        owner.execute(
            "insert into omni.segments (job_id, source_id, revision, position, start_s, end_s, text, words)"
            " values (%s, %s, 1, 0, 65, 70, 'the quarterly budget is fine', '[]')",
            (JOB, SOURCE),
        )
    return file_database_url


@pytest.fixture
def database(filled: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OMNI_DATABASE_URL", filled)
    return filled


def test_rows_are_shown_as_table_json_and_csv(database: str, run: Run) -> None:
    statement = "select name, duration_s, tasks, null as nothing from omni_v1.sources"
    assert run("sql", statement).out.splitlines()[0].split() == ["name", "duration_s", "tasks", "nothing"]
    assert run("sql", statement, "--json").document == [
        {"name": "talk.mp4", "duration_s": 61.5, "tasks": [], "nothing": None}
    ]
    assert list(csv.reader(io.StringIO(run("sql", statement, "--csv").out))) == [
        ["name", "duration_s", "tasks", "nothing"],
        ["talk.mp4", "61.5", "[]", ""],
    ]


def test_every_kind_of_value_has_a_place_in_json(database: str, run: Run) -> None:
    statement = """select 1.5::numeric as a, 2::numeric as a, 'nan'::float8 as n, now() as t, gen_random_uuid() as u,
      '{"x": [1]}'::jsonb as j, '\\x00ff'::bytea as b, array[1.5::numeric] as l, interval '1 s' as i, '100%' as p"""
    (row,) = run("sql", statement, "--json").document
    assert (row["a"], row["a_2"], row["n"], row["j"], row["b"], row["l"], row["p"]) == (
        1.5, 2, "NaN", {"x": [1]}, "00ff", [1.5], "100%",
    )  # fmt: skip


def test_bytes_are_hex_in_tables_and_csv(database: str, run: Run) -> None:
    statement = "select '\\x00ff'::bytea as b"
    assert run("sql", statement, "--csv").out.splitlines() == ["b", "\\x00ff"]
    assert run("sql", statement).out.splitlines()[2] == "\\x00ff"


def test_json_is_written_row_by_row(capsys: pytest.CaptureFixture[str]) -> None:
    written = ""

    def rows() -> Iterator[tuple[int]]:
        nonlocal written
        for n in range(3):
            assert written.count("{") == n
            yield (n,)
            written += capsys.readouterr().out

    _print_json(["n"], rows())
    assert json.loads(written + capsys.readouterr().out) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_list_that_breaks_off_ends_with_an_error(database: str, run: Run) -> None:
    ran = run("sql", "select n, 1 / (950 - n) as x from generate_series(1, 1000) n", "--json")
    assert (ran.status, ran.err) == (2, "error: division by zero\n")
    *rows, last = ran.document
    assert [row["n"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 900
    assert last == {"error": {"type": "sql", "message": "division by zero", "retryable": False}}
    # Before the first row it is the error alone.
    assert run("sql", "select 1 / 0", "--json").document == last


def test_an_interrupted_list_is_still_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Iterator[tuple[int]]:
        yield (1,)
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        _print_json(["n"], rows())
    one, two = json.loads(capsys.readouterr().out)
    assert (ended.value.exit_code, one, two["error"]["type"]) == (130, {"n": 1}, "interrupted")


@pytest.mark.parametrize("statement", ["copy (select 1) to stdout", "begin", "set work_mem = '1MB'", "/* nothing */"])
def test_a_statement_without_rows_is_refused(database: str, run: Run, statement: str) -> None:
    ran = run("sql", statement, "--json")
    message = "expected one statement that answers with rows, such as select; begin, set and copy do not"
    assert (ran.status, ran.err, ran.document["error"]["message"]) == (2, f"error: {message}\n", message)


def test_no_more_rows_than_asked_for(database: str, run: Run) -> None:
    ran = run("sql", "select generate_series(1, 1000000000) as n", "--max-rows", "3", "--json")
    assert ran.document == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert ran.err == "only the first 3 rows are shown: --max-rows\n"
    assert "only the first" not in run("sql", "select 1", "--max-rows", "1").err
    assert run("sql", "select 1 where false", "--json").document == []


@pytest.mark.parametrize(
    "statement",
    [
        "delete from omni.jobs",
        "create table mine (a int)",
        "set transaction read write; delete from omni.jobs",
        "select * from omni.jobs",
        "set role omni",
        "alter role omni_read superuser",
        "copy (select 1) to program 'id'",
        "select 1; commit; delete from omni.jobs",
        "do $$ begin set transaction read write; delete from omni.jobs; end $$",
    ],
)
def test_writing_is_refused(database: str, run: Run, statement: str) -> None:
    before = run("sql", "select count(*) as n from omni_v1.jobs", "--json").document
    ran = run("sql", statement)
    assert ran.err.startswith("error: ")
    assert ran.status == 2
    assert run("sql", "select count(*) as n from omni_v1.jobs", "--json").document == before == [{"n": 1}]


def test_a_mistake_is_shown_with_its_place(database: str, run: Run) -> None:
    ran = run("sql", "select nam from omni_v1.jobs", "--json")
    assert ran.status == 2
    assert ran.err.splitlines()[:3] == [
        'error: column "nam" does not exist',
        "LINE 1: select nam from omni_v1.jobs",
        "               ^",
    ]
    assert ran.document["error"]["type"] == "sql"


def test_a_statement_ends_at_its_time_limit(database: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("sql", "show statement_timeout", "--json").document == [{"statement_timeout": "30s"}]
    monkeypatch.setattr(reader, "TIMEOUT_S", 1)
    ran = run("sql", "select pg_sleep(20)")
    assert (ran.status, "statement timeout" in ran.err) == (2, True)


def test_the_address_is_that_of_a_reader(database: str, run: Run, place: Path) -> None:
    address = run("sql", "--dsn").out.strip()
    assert address.startswith("postgresql://omni_read:")
    with psycopg.connect(address) as connection:
        assert connection.execute("select name from omni_v1.jobs").fetchone() == ("talk",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select * from omni.jobs")
    secret = place.parent / "home/secrets/reader"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert secret.read_text().strip() in address
    # The password is kept, so that what was set up in a client goes on working.
    assert run("sql", "--dsn").out.strip() == address


def test_an_address_of_ones_own_is_used(database: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    address = run("sql", "--dsn").out.strip()
    monkeypatch.setenv("OMNI_SQL_URL", address)
    monkeypatch.setenv("OMNI_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/x")
    assert run("sql", "select 1 as one", "--json").document == [{"one": 1}]


def test_search_shows_where_the_words_are(database: str, run: Run) -> None:
    ran = run("search", '"quarterly budget"')
    assert ran.status == 0
    assert ran.out.split(maxsplit=3)[:3] == ["speech", "talk.mp4", "01:05"]
    assert "**quarterly** **budget**" in ran.out
    document = run("search", "budget", "--json").document
    assert document["query"] == "budget"
    assert (document["hits"][0]["medium"], document["hits"][0]["start_s"]) == ("speech", 65.0)


def test_search_without_hits_says_so(database: str, run: Run) -> None:
    ran = run("search", "nothing-of-that")
    assert (ran.status, ran.out) == (0, "")
    assert run("search", "%s';--", "--json").document["hits"] == []


@pytest.mark.parametrize(
    "words", [["sql"], ["sql", "  "], ["sql", "select 1", "--csv", "--json"], ["sql", "select 1", "--max-rows", "0"]]
)
def test_a_mistake_in_the_command_is_one_line(database: str, run: Run, words: list[str]) -> None:
    ran = run(*words)
    assert (ran.status, ran.err.startswith("error: ")) == (2, True)


def test_words_that_are_no_text_are_a_mistake(database: str, run: Run) -> None:
    for words in (["search", "\udcff"], ["sql", "select '\udcff'"]):
        ran = run(*words)
        assert (ran.status, "in UTF-8" in ran.err, len(ran.err.splitlines())) == (2, True, 1)


def test_a_word_may_be_excluded(database: str, run: Run) -> None:
    assert run("search", "budget").out
    for words in (["-quarterly", "budget"], ["budget", "-quarterly", "--limit", "5"], ["--", "-quarterly", "budget"]):
        ran = run("search", *words)
        assert (ran.status, ran.out, ran.err[:7]) == (0, "", "no hits")
    assert run("search", "budget", "-other", "--json").document["query"] == "budget -other"
    assert run("search", "budget", "--frobnicate").err.startswith("error: No such option")
    assert "Examples:" in run("search", "-h").out


@pytest.mark.parametrize("variable", ["OMNI_DATABASE_URL", "OMNI_SQL_URL"])
@pytest.mark.parametrize("command", [["sql", "select 1"], ["search", "x"], ["migrate"], ["tenant", "list"]])
@pytest.mark.parametrize(
    "url",
    ["mysql://x", "mysql://me:hunter2@x", "hunter2", "postgresql://me:hunter2@[x", "postgresql://me:hunter2@x/d?a"],
)
def test_an_address_is_never_quoted(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch, variable: str, command: list[str], url: str
) -> None:
    if variable == "OMNI_SQL_URL" and command[0] in ("migrate", "tenant"):
        variable = "OMNI_DATABASE_URL"
    monkeypatch.setenv(variable, url)
    ran = run(*command, "--json") if command[0] != "migrate" else run(*command)
    assert ran.status == 2
    assert ran.err.startswith(f"error: {variable}: expected an address such as postgresql://user@host:5432/name, got ")
    secret = place.parent / "home/secrets/reader"
    for word in ("hunter2", "omni_read", *([secret.read_text().strip()] if secret.exists() else [])):
        assert word not in ran.out + ran.err


def test_tenants_are_listed_and_set(database: str, run: Run) -> None:
    assert run("tenant", "set", "news", "--weight", "3").out == "news: weight 3, max open jobs default\n"
    row = {"tenant_id": "news", "weight": 3.0, "max_open_jobs": 500}
    assert run("tenant", "set", "news", "--max-open-jobs", "500", "--json").document == row
    assert {**row, "open_jobs": 0} in run("tenant", "list", "--json").document["tenants"]
    assert ["news", "3", "500", "0"] in [line.split() for line in run("tenant", "list").out.splitlines()]


@pytest.mark.parametrize(
    "words",
    [["news"], ["news", "--weight", "0"], ["news", "--weight", "nan"], ["news", "--max-open-jobs", "0"],
     ["../x", "--weight", "1"]],
)  # fmt: skip
def test_a_share_that_is_none_is_refused(database: str, run: Run, words: list[str]) -> None:
    ran = run("tenant", "set", *words)
    assert (ran.status, ran.err.startswith("error: "), len(ran.err.splitlines())) == (2, True, 1)


def test_a_database_that_does_not_answer_is_a_failure(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("OMNI_DATABASE_URL", "postgresql://omni:x@127.0.0.1:9/omni")
    ran = run("sql", "select 1")
    assert (ran.status, "the database does not answer" in ran.err) == (1, True)
    monkeypatch.setenv("OMNI_DATABASE_URL", "mysql://x")
    assert run("sql", "select 1").err.startswith("error: ")


def test_migrate_says_the_version(database: str, run: Run) -> None:
    from omni_jobs.store import schema

    ran = run("migrate")
    assert (ran.status, ran.out) == (0, f"schema {schema.head()}\n")
    assert json.loads(run("sql", "select 1 as n", "--json").out) == [{"n": 1}]
