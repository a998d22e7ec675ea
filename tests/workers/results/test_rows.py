"""Rows fit their tables."""

import re
from pathlib import Path

import migrations
from tests.workers.results.make import block, make_clip, make_page, make_source, make_span, make_unit, spoken
from workers.results.assemble import assemble
from workers.results.rows import rows_of

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
