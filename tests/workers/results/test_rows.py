"""Rows fit their tables."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

import migrations
from omni_jobs.job import Pool
from omni_jobs.result import SourceResult
from omni_jobs.store import attempts, claims, results, submissions, workers
from omni_jobs.store.locks import LockedJob
from omni_jobs.store.submissions import NewJob, NewSource
from tests.workers.results.make import block, make_clip, make_page, make_source, make_span, make_unit, spoken
from workers.results.assemble import assemble
from workers.results.rows import MOST_TEXT, rows_of, split

ADDED_BY_THE_STORE = {"job_id", "revision", "source_id"}


def columns() -> dict[str, set[str]]:
    """Columns of each table that are written, as the migration says."""
    text = (Path(migrations.__file__).parent / "versions/0001_create_core.sql").read_text()
    tables = re.findall(r"create table omni\.(\w+) \((.*?)\n\)", text, re.DOTALL)
    return {name: set(re.findall(r"^  (\w+) +(?!key)(?!generated)\w", body, re.MULTILINE)) for name, body in tables}


def test_each_row_has_the_columns_of_its_table() -> None:
    seen = {"text": "Agenda", "box": [0, 0, 1, 1], "time_s": 1, "confidence": 1}
    source = assemble(
        make_source(
            make_span(0, 60, spoken(("a", 0, 1))),
            make_clip(
                0, 60, {"start_s": 0, "end_s": 60, "text": "x", "on_screen": [seen, seen | {"text": "Café"}, seen]}
            ),
            make_page(1, block("text"), block("", "table", rows=[["a"]])),
            make_unit("reduce", "r", answer={"method": "extractive", "sentences": [{"text": "a", "start_s": 0}]}),
            tasks=("transcribe", "caption", "document"),
        )
    )
    tables = rows_of(source)
    assert set(tables) == {"segments", "captions", "pages", "blocks", "coverage", "summaries"}
    for name, rows in tables.items():
        assert rows, name
        for row in rows:
            assert set(row) == columns()[name] - ADDED_BY_THE_STORE - {"search"}, name
    assert tables["captions"][0]["screen"] == "Agenda\nCafé"
    assert [row["block"] for row in tables["blocks"]] == [1, 2]
    assert tables["segments"][0]["words"][0]["method"] == "whisper"


def test_rows_hold_nothing_that_postgresql_refuses() -> None:
    source = assemble(
        make_source(
            make_page(
                1,
                block("ok"),
            ),
            tasks=("document",),
        )
    )
    assert source.document is not None
    source.document.pages[0].blocks[0].text = "a\0b\udfff"
    source.document.pages[0].blocks[0].rows = [["\0"]]
    (row,) = rows_of(source)["blocks"]
    assert (row["text"], row["rows"]) == ("ab", [[""]])


def test_a_source_without_result_has_coverage_rows_only() -> None:
    tables = rows_of(assemble(make_source(error={"type": "unreadable", "message": "no header"})))
    assert [name for name, rows in tables.items() if rows] == ["coverage"]


TOKENS = [f"{number:032x}" for number in range(30_000)]


def huge() -> SourceResult:
    """A segment, a shot and a page that hold a megabyte of words of which no two are the same."""
    seen = [{"text": token, "box": [0, 0, 1, 1], "time_s": 1, "confidence": 1} for token in TOKENS]
    return assemble(
        make_source(
            make_span(0, 60, spoken(*((token, k / 1000, k / 1000 + 0.001) for k, token in enumerate(TOKENS)))),
            make_clip(0, 60, {"start_s": 0, "end_s": 60, "text": "A long roll.", "on_screen": seen}),
            make_page(1, block("Head"), block(" ".join(TOKENS)), block("Foot")),
            tasks=("transcribe", "caption", "document"),
        )
    )


def test_long_texts_become_several_rows_that_lose_no_word() -> None:
    source = huge()
    tables = rows_of(source)
    for table, column in (("segments", "text"), ("captions", "screen"), ("blocks", "text")):
        texts = [row[column] for row in tables[table]]
        assert max(map(len, texts)) <= MOST_TEXT and len(texts) > 40, table
        words = " ".join(texts).split()
        assert [word for word in words if word not in ("Head", "Foot")] == TOKENS, table
    assert [row["block"] for row in tables["blocks"]] == list(range(1, len(tables["blocks"]) + 1))
    assert [row["text"] for row in tables["captions"] if row["text"]] == ["A long roll."]
    assert source.document is not None
    assert tables["pages"][0]["text"] == source.document.pages[0].text == f"Head\n\n{' '.join(TOKENS)}\n\nFoot"
    segments = tables["segments"]
    assert sum(len(row["words"]) for row in segments) == 30_000
    assert all(a["end_s"] <= b["start_s"] for a, b in pairwise(segments))


def test_long_speech_without_words_shares_its_time_out() -> None:
    said: dict[str, Any] = {"start_s": 10.0, "end_s": 20.0, "text": "ab " * 18_000}
    rows = rows_of(assemble(make_source(make_span(0, 60, said))))["segments"]
    assert len(rows) == 3 and (rows[0]["start_s"], rows[-1]["end_s"]) == (10.0, 20.0)
    assert all(a["end_s"] == b["start_s"] for a, b in pairwise(rows))


def test_a_text_is_cut_at_lines_or_words_and_else_anywhere() -> None:
    assert split("") == [""]
    assert split("x" * MOST_TEXT) == ["x" * MOST_TEXT]
    assert [len(piece) for piece in split("x" * (2 * MOST_TEXT + 1))] == [MOST_TEXT, MOST_TEXT, 1]
    lines = "\n".join(["one two"] * 6_000)
    assert "\n".join(split(lines)) == lines and len(split(lines)) == 3
    assert all(piece.endswith("two") for piece in split(lines))


@pytest.mark.servers
def test_postgresql_takes_a_megabyte_of_different_words(db: Engine) -> None:
    submissions.insert(db, NewJob("acme", (NewSource("upload:a.pdf", "a.pdf", "k", "0" * 64, 10),), {"summary": False}))
    worker = workers.register(db, pool="cpu", host="h", pid=1, pid_started=1, version="t", backend=None)
    (prepare,) = claims.claim(db, worker, Pool.CPU, 1)
    attempts.finish(db, prepare, {})
    (deliver,) = claims.claim(db, worker, Pool.IO, 1)
    content = {str(prepare.source_id): rows_of(huge())}

    def commit(tx: Connection, job: LockedJob) -> None:
        results.commit(job, generation=1, prefix="p/", answered_by={}, artifacts=[], content=content)

    attempts.finish(db, deliver, {}, also=commit)
    with db.connect() as tx:
        found = tx.execute(text("select medium from omni_v1.search(:word)"), {"word": TOKENS[-1]}).scalars().all()
    assert sorted(found) == ["page", "screen", "speech"]
