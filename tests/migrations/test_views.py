"""The SQL contract, on a real server, as somebody who may only read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from omni_jobs.store import schema

pytestmark = pytest.mark.servers
Connection = psycopg.Connection[DictRow]

# May only grow: whoever adds a column adds it here; no line is ever taken out or changed.
PROMISED = {
    "artifacts": "job_id uuid, source_id uuid, source_name text, name text, format text, media_type text, "
    "size_bytes bigint, sha256 text, key text",
    "captions": "job_id uuid, source_id uuid, source_name text, caption integer, start_s double precision, "
    "end_s double precision, text text, sound text, screen_text text, on_screen jsonb, evidence jsonb",
    "coverage": "job_id uuid, source_id uuid, source_name text, entry integer, medium text, state text, reason text, "
    "start_s double precision, end_s double precision, duration_s numeric, page integer",
    "jobs": "job_id uuid, tenant_id text, name text, origin text, state text, phase text, waiting text, "
    "error_type text, error_message text, error_retryable boolean, priority integer, options jsonb, metadata jsonb, "
    "sources bigint, duration_s double precision, pages bigint, units_total bigint, units_done bigint, "
    "units_dead bigint, revision integer, answered_by jsonb, reused_from uuid, created_at timestamp with time zone, "
    "started_at timestamp with time zone, finished_at timestamp with time zone, "
    "delivered_at timestamp with time zone",
    "page_blocks": "job_id uuid, source_id uuid, source_name text, page integer, block integer, kind text, text text, "
    "table_rows jsonb, x0_pt double precision, y0_pt double precision, x1_pt double precision, "
    "y1_pt double precision, confidence double precision",
    "pages": "job_id uuid, source_id uuid, source_name text, page integer, width_pt double precision, "
    "height_pt double precision, rotation_deg integer, text_source text, reason text, text text",
    "sources": "source_id uuid, job_id uuid, source integer, name text, uri text, tasks text[], medium text, "
    "container text, sha256 text, size_bytes bigint, duration_s double precision, pages integer, state text, "
    "phase text, error_type text, error_message text, units_total bigint, units_done bigint, units_dead bigint, "
    "reused_from uuid, created_at timestamp with time zone, finished_at timestamp with time zone",
    "speakers": "job_id uuid, source_id uuid, source_name text, turn integer, speaker text, "
    "start_s double precision, end_s double precision",
    "summaries": "job_id uuid, source_id uuid, source_name text, sentence integer, method text, text text, "
    "start_s double precision, end_s double precision, page integer",
    "transcript_segments": "job_id uuid, source_id uuid, source_name text, segment integer, start_s double precision, "
    "end_s double precision, text text, language text, speaker text, confidence double precision",
    "transcript_words": "job_id uuid, source_id uuid, source_name text, segment integer, word integer, "
    "start_s double precision, end_s double precision, text text, speaker text, confidence double precision, "
    "method text",
}


@pytest.fixture(scope="module")
def url(server_url: str) -> Iterator[str]:
    """A database of this module at the newest schema."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("create database views template template_omni")
        yield f"{server_url.rpartition('/')[0]}/views"
        connection.execute("drop database views with (force)")


@pytest.fixture
def owner(url: str) -> Iterator[Connection]:
    """The owner's connection; what a test writes is gone afterwards."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        yield connection
        connection.rollback()


def as_reader(owner: Connection) -> Connection:
    owner.execute("set local role omni_read")
    return owner


def insert(owner: Connection, table: str, **values: Any) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, values))
    places = sql.SQL(", ").join(sql.Placeholder() * len(values))
    row = [Jsonb(value) if isinstance(value, dict) or _is_json(value) else value for value in values.values()]
    owner.execute(
        sql.SQL("insert into omni.{} ({}) values ({})").format(sql.Identifier(table), columns, places), row
    )  # fmt: skip


def _is_json(value: Any) -> bool:
    return isinstance(value, list) and not all(isinstance(item, str) for item in value)


def make_job(owner: Connection, **changes: Any) -> dict[str, UUID]:
    """A delivered job with one source; gives the ids that every row of it carries."""
    owner.execute("insert into omni.tenants (tenant_id) values ('local') on conflict do nothing")
    job_id, source_id = uuid4(), uuid4()
    job = {"tenant_id": "local", "name": "talk", "origin": "api", "state": "succeeded", "result_revision": 1}
    insert(owner, "jobs", job_id=job_id, **(job | changes))
    insert(owner, "sources", source_id=source_id, job_id=job_id, position=0, uri="file:///talk.mp4", name="talk.mp4",
           tasks=["transcribe"], duration_s=61.5)  # fmt: skip
    return {"job_id": job_id, "source_id": source_id}


def spoken(text: str, start_s: float, *, step_s: float = 0.5) -> list[dict[str, Any]]:
    return [
        {"text": word, "start_s": start_s + n * step_s, "end_s": start_s + (n + 1) * step_s, "method": "alignment"}
        for n, word in enumerate(text.split())
    ]


def insert_segment(owner: Connection, ids: dict[str, UUID], text: str, *, position: int = 0, revision: int = 1,
                   start_s: float = 10.0, words: bool = True) -> None:  # fmt: skip
    insert(owner, "segments", **ids, revision=revision, position=position, start_s=start_s, end_s=start_s + 30,
           text=text, words=Jsonb(spoken(text, start_s) if words else []))  # fmt: skip


def insert_all(owner: Connection) -> dict[str, UUID]:
    """One row in every table behind the views."""
    ids = make_job(owner, metadata={"case": 7}, options={"summary": True})
    place = {**ids, "revision": 1, "position": 0}
    insert_segment(owner, ids, "Die jährliche Übersicht kostet 500 Euro.")
    insert(owner, "captions", **place, start_s=4.0, end_s=9.0, text="A slide.", sound="speech",
           screen="Agenda\nCafé Zürich",
           on_screen=[{"text": "Agenda", "box": [0.1, 0.1, 0.4, 0.2], "time_s": 4.5, "confidence": 0.9},
                      {"text": "Café Zürich", "box": [0.1, 0.5, 0.6, 0.7], "time_s": 6.5, "confidence": 0.9}],
           )  # fmt: skip
    insert(owner, "pages", **ids, revision=1, page=3, width_pt=595, height_pt=842, text_source="ocr", text="Anlage")
    insert(owner, "blocks", **ids, revision=1, page=3, block=1, kind="text", text="Anlage zum Angebot über Kabel",
           x0=72, y0=100, x1=300, y1=120)  # fmt: skip
    insert(owner, "coverage", **place, medium="speech", state="done", start_s=0.1, end_s=61.4)
    insert(owner, "summaries", **place, method="extractive", text="500 Euro.", start_s=10.0, end_s=12.0)
    insert(owner, "results", job_id=ids["job_id"], revision=1, generation=1, prefix="p", answered_by={"backend": "x"})
    insert(owner, "artifacts", job_id=ids["job_id"], revision=1, generation=1, name="text.txt", format="txt", key="k",
           media_type="text/plain", size_bytes=3, sha256="00")  # fmt: skip
    insert(owner, "units", unit_id=uuid4(), **ids, revision=1, kind="span", pool="gpu", state="done")
    insert(owner, "units", unit_id=uuid4(), **ids, revision=1, kind="words", pool="cpu", state="dead")
    turns = [{"start_s": 1.5, "end_s": 4.25, "speaker": "S1"}]
    insert(owner, "units", unit_id=uuid4(), **ids, revision=1, kind="speakers", pool="cpu", state="done",
           answer={"turns": turns})  # fmt: skip
    return ids


def search(owner: Connection, query: str, max_rows: int = 50) -> list[DictRow]:
    return owner.execute("select * from omni_v1.search(%s, %s)", [query, max_rows]).fetchall()


def test_the_columns_are_those_promised(owner: Connection) -> None:
    found = owner.execute(
        "select c.relname as view, string_agg(a.attname || ' ' || format_type(a.atttypid, null), ', ' order by attnum) "
        "  as columns from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 "
        " where c.relnamespace = 'omni_v1'::regnamespace group by c.relname"
    ).fetchall()
    assert {row["view"]: row["columns"] for row in found} == PROMISED


def test_every_view_and_every_column_has_a_comment(owner: Connection) -> None:
    silent = owner.execute(
        "select c.relname, a.attname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 "
        "  left join pg_description d on d.classoid = 'pg_class'::regclass and d.objoid = c.oid "
        "       and d.objsubid in (0, a.attnum) "
        " where c.relnamespace = 'omni_v1'::regnamespace group by 1, 2 having count(d.description) < 2"
    ).fetchall()
    assert silent == []
    described = owner.execute(
        "select obj_description('omni_v1.search(text, integer)'::regprocedure) as said"
    ).fetchone()
    assert described is not None and "phrases" in described["said"]


@pytest.mark.parametrize("view", PROMISED)
def test_a_reader_sees_each_view(owner: Connection, view: str) -> None:
    ids = insert_all(owner)
    rows = as_reader(owner).execute(sql.SQL("select * from omni_v1.{}").format(sql.Identifier(view))).fetchall()
    assert {row["job_id"] for row in rows} == {ids["job_id"]}
    assert len(rows) == (6 if view == "transcript_words" else 1)


def test_a_job_shows_how_far_it_is(owner: Connection) -> None:
    ids = insert_all(owner)
    job = as_reader(owner).execute("select * from omni_v1.jobs where job_id = %(job_id)s", ids).fetchone()
    assert job is not None
    assert (job["units_total"], job["units_done"], job["units_dead"]) == (3, 2, 1)
    assert (job["duration_s"], job["sources"], job["metadata"], job["revision"]) == (61.5, 1, {"case": 7}, 1)


def test_a_failed_job_shows_why_and_an_undelivered_one_shows_no_result(owner: Connection) -> None:
    ids = make_job(
        owner,
        state="failed",
        result_revision=None,
        error={"type": "encrypted", "message": "no key", "retryable": False},
    )
    insert_segment(owner, ids, "unfinished words")
    reader = as_reader(owner)
    job = reader.execute("select error_type, error_message, error_retryable, revision from omni_v1.jobs").fetchone()
    assert job == {"error_type": "encrypted", "error_message": "no key", "error_retryable": False, "revision": None}
    source = reader.execute("select state, error_type from omni_v1.sources").fetchone()
    assert source == {"state": "failed", "error_type": "encrypted"}
    assert reader.execute("select from omni_v1.transcript_segments").fetchall() == []
    assert search(reader, "unfinished") == []


def test_only_the_current_revision_is_shown(owner: Connection) -> None:
    ids = make_job(owner, result_revision=2)
    insert_segment(owner, ids, "the old sentence", revision=1)
    insert_segment(owner, ids, "the new sentence", revision=2)
    insert_segment(owner, ids, "the coming sentence", revision=3)
    reader = as_reader(owner)
    assert reader.execute("select text from omni_v1.transcript_segments").fetchall() == [{"text": "the new sentence"}]
    assert [row["snippet"] for row in search(reader, "sentence")] == ["the new **sentence**"]


def test_coverage_seconds_are_exact(owner: Connection) -> None:
    insert_all(owner)
    row = as_reader(owner).execute("select duration_s::text as duration_s from omni_v1.coverage").fetchone()
    assert row == {"duration_s": "61.300"}


@pytest.mark.parametrize(
    "statement",
    [
        "select from omni.jobs",
        "select omni.fold('x')",
        "select omni.marked('x', 'x', '{x}')",
        "insert into omni_v1.summaries (text) values ('x')",
        "delete from omni_v1.artifacts",
        "update omni_v1.jobs set name = 'x'",
        "create view omni_v1.mine as select 1",
    ],
)
def test_a_reader_reaches_nothing_else(owner: Connection, statement: str) -> None:
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
        as_reader(owner).execute(statement.encode())


def test_a_reader_who_logs_in_is_read_only_and_limited(url: str, owner: Connection) -> None:
    owner.execute("alter role omni_read login password 'x'")
    owner.commit()
    try:
        with psycopg.connect(url, user="omni_read", password="x") as reader:
            assert reader.execute("show default_transaction_read_only").fetchone() == ("on",)
            assert reader.execute("show statement_timeout").fetchone() == ("30s",)
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                reader.execute("create temporary table mine (x int)")
    finally:
        owner.execute("alter role omni_read nologin password null")
        owner.commit()


def test_the_file_may_run_again_and_keeps_what_stands_on_it(owner: Connection) -> None:
    owner.execute("create view public.mine as select name from omni_v1.jobs")
    owner.execute((Path(schema.migrations.__file__).parent / "views/omni_v1.sql").read_bytes())
    assert owner.execute("select from public.mine").fetchall() == []


def test_a_phrase_in_speech_is_found_at_its_words(owner: Connection) -> None:
    ids = make_job(owner)
    insert_segment(owner, ids, "the report came late but the annual report is here")
    (hit,) = search(as_reader(owner), '"annual report"')
    assert (hit["medium"], hit["source_name"], hit["start_s"], hit["end_s"]) == ("speech", "talk.mp4", 13.0, 14.0)
    assert "**annual** **report** is" in hit["snippet"]
    assert (hit["page"], hit["x0"]) == (None, None)


def test_speech_without_word_times_is_found_at_its_segment(owner: Connection) -> None:
    insert_segment(owner, make_job(owner), "the annual report", words=False)
    (hit,) = search(as_reader(owner), "report")
    assert (hit["start_s"], hit["end_s"]) == (10.0, 40.0)


@pytest.mark.parametrize("query", ["JAHRLICHE", "jährliche", '"jahrliche ubersicht"', "übersicht -angebot"])
def test_case_and_accents_do_not_matter(owner: Connection, query: str) -> None:
    insert_all(owner)
    (hit,) = search(as_reader(owner), query)
    assert hit["medium"] == "speech"
    assert "**jährliche**" in hit["snippet"] or "**Übersicht**" in hit["snippet"]


def test_text_on_screen_is_found_with_its_time_and_box(owner: Connection) -> None:
    insert_all(owner)
    (hit,) = search(as_reader(owner), "cafe zurich")
    assert (hit["medium"], hit["start_s"], hit["end_s"]) == ("screen", 6.5, 9.0)
    assert [hit[side] for side in ("x0", "y0", "x1", "y1")] == [0.1, 0.5, 0.6, 0.7]
    assert "**Café** **Zürich**" in hit["snippet"]


def test_paper_is_found_with_its_page_and_box(owner: Connection) -> None:
    insert_all(owner)
    (hit,) = search(as_reader(owner), "angebot or nothing")
    assert (hit["medium"], hit["page"], hit["start_s"]) == ("page", 3, None)
    assert [hit[side] for side in ("x0", "y0", "x1", "y1")] == [72, 100, 300, 120]
    assert hit["snippet"] == "Anlage zum **Angebot** über Kabel"


def test_one_search_spans_all_media_and_respects_its_limit(owner: Connection) -> None:
    insert_all(owner)
    reader = as_reader(owner)
    assert {row["medium"] for row in search(reader, "euro or agenda or kabel")} == {"speech", "screen", "page"}
    assert len(search(reader, "euro or agenda or kabel", 2)) == 2
    assert search(reader, "euro", 0) == []


def test_han_and_kana_are_found_inside_a_sentence(owner: Connection) -> None:
    insert_segment(owner, make_job(owner), "今日の会議は三時です", words=False)
    reader = as_reader(owner)
    assert len(search(reader, "会議")) == 1
    assert search(reader, '"議会"') == []


@pytest.mark.parametrize(
    "query", ["", "  ", "-only", "!!! ???", "'; drop schema omni cascade; --", '"', "a:* & <-> b", "\\"]
)
def test_odd_queries_find_nothing_and_break_nothing(owner: Connection, query: str) -> None:
    insert_all(owner)
    assert search(as_reader(owner), query) == []


def test_search_uses_its_indexes_on_many_rows(owner: Connection) -> None:
    ids = make_job(owner)
    place = "select %(job_id)s, 1, %(source_id)s, n"
    owner.execute(
        f"insert into omni.segments (job_id, revision, source_id, position, start_s, end_s, text) "
        f"{place}, n, n + 1, 'sentence ' || n || ' of a very long talk' from generate_series(1, 60000) n", ids
    )  # fmt: skip
    owner.execute(
        f"insert into omni.captions (job_id, revision, source_id, position, start_s, end_s, text, sound, screen) "
        f"{place}, n, n + 1, '', 'none', 'slide ' || n || ' of many' from generate_series(1, 20000) n", ids
    )  # fmt: skip
    owner.execute(
        f"insert into omni.blocks (job_id, revision, source_id, page, block, kind, text, x0, y0, x1, y1) "
        f"{place}, 1, 'text', 'clause ' || n || ' of a contract', 0, 0, 1, 1 from generate_series(1, 20000) n", ids
    )  # fmt: skip
    owner.execute("analyze omni.segments, omni.captions, omni.blocks")
    reads = (
        "select relname as name, pg_stat_get_xact_numscans(oid) as scans from pg_class where relname in "
        "('segments', 'captions', 'blocks', 'segments_search', 'captions_search', 'blocks_search')"
    )
    before = {row["name"]: row["scans"] for row in owner.execute(reads).fetchall()}
    hits = search(owner, "777")
    after = {row["name"]: row["scans"] for row in owner.execute(reads).fetchall()}
    assert {hit["medium"] for hit in hits} == {"speech", "screen", "page"}
    scans = {name: after[name] - before[name] for name in after}
    assert scans == {name: int(name.endswith("_search")) for name in scans}
