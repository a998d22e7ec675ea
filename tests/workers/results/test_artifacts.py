"""The files of a job: their names, their bytes, and what stands in them."""

import hashlib
import json

import jsonschema_rs
import pytest

from omni_jobs.result import SourceResult, json_schema
from tests.workers.results.make import (
    TIMEOUT,
    block,
    make_clip,
    make_page,
    make_result,
    make_source,
    make_span,
    make_unit,
    make_words,
    spoken,
)
from workers.results.artifacts import Rendered, render
from workers.results.assemble import assemble
from workers.results.manifest import manifest
from workers.results.markdown import markdown
from workers.results.plain import plain


def talk() -> SourceResult:
    """A video with speech, a slide, a dead clip and a summary."""
    seen = {"text": "Q3 *results*", "box": [0.1, 0.1, 0.5, 0.2], "time_s": 4.0, "confidence": 0.9}
    return assemble(
        make_source(
            make_span(0, 60, spoken(("Costs", 1.0, 1.5), ("rose_by", 1.5, 2.0), ("5%.", 2.0, 2.5))),
            make_words("u1", [("Costs", 1.01, 1.5), ("rose_by", 1.5, 2.0), ("5%.", 2.0, 2.51)]),
            make_clip(0, 30, {"start_s": 0, "end_s": 30, "text": "A slide.", "sound": "speech", "on_screen": [seen]}),
            make_clip(30, 60, unit_id="c2", error=TIMEOUT),
            make_unit("reduce", "r", answer={"method": "extractive", "sentences": [
                {"text": "Costs rose by 5%.", "start_s": 1.01, "end_s": 2.51}]}),
            name="talk.mp4", medium="video", container="mp4", tasks=("transcribe", "caption"), speech=((1.0, 2.6),),
        )
    )  # fmt: skip


def paper() -> SourceResult:
    table = block("Item\tPrice\nTea\t3", "table", rows=[["Item", "Price"], ["Tea | milk"]])
    return assemble(
        make_source(
            make_page(1, block("Annual Report", "title"), block("1. Introduction", "heading"), block("# No heading")),
            make_page(2, source="none"),
            make_page(3, table, block("• one\n- two", "list"), block("x = `1`", "code"), source="ocr"),
            make_unit("reduce", "r", answer={"method": "extractive", "sentences": [{"text": "Tea.", "page": 3}]}),
            name="paper.pdf", medium="document", container="pdf", duration_s=None, pages=3, tasks=("document",),
        )
    )  # fmt: skip


def files(*sources: SourceResult) -> dict[str, Rendered]:
    return {file.name: file for file in render(make_result(*sources))}


def text(*sources: SourceResult, name: str) -> str:
    return files(*sources)[name].data.decode()


def test_a_job_with_one_source_has_plain_names() -> None:
    assert list(files(talk())) == ["result.json", "text.txt", "result.md", "subtitles.srt", "subtitles.vtt"]
    assert list(files(paper())) == ["result.json", "text.txt", "result.md"]
    assert [file.format for file in files(talk()).values()] == ["json", "txt", "md", "srt", "vtt"]


def test_several_sources_are_told_apart_by_their_number() -> None:
    made = files(talk(), paper())
    assert list(made) == ["result.json", "01-text.txt", "01-result.md", "01-subtitles.srt", "01-subtitles.vtt",
                          "02-text.txt", "02-result.md"]  # fmt: skip
    assert made["result.json"].source_id is None and made["02-text.txt"].source_id == "s1"


def test_a_video_without_speech_task_has_no_subtitles() -> None:
    source = assemble(make_source(make_clip(0, 60, {"start_s": 0, "end_s": 60, "text": "x"}), tasks=("caption",)))
    assert list(files(source)) == ["result.json", "text.txt", "result.md"]


def test_result_json_is_what_its_schema_says() -> None:
    validator = jsonschema_rs.validator_for(json_schema())
    failed = assemble(make_source(error={"type": "something new", "message": "no\0 header"}))
    for sources in ([talk()], [paper()], [failed], [talk(), paper(), failed], []):
        content = json.loads(files(*sources)["result.json"].data)
        validator.validate(content)
        content["sources"].append({"source_id": 1})
        assert not validator.is_valid(content)


def test_the_same_result_gives_the_same_bytes() -> None:
    assert render(make_result(talk(), paper())) == render(make_result(talk(), paper()))


def test_what_looks_like_an_entity_stays_as_it_is_written() -> None:
    source = make_source(make_page(1, block("Q&A in R & D: &lt; &#35; &amp;x &copy;")), tasks=("document",))
    assert r"Q&A in R & D: \&lt; \&#35; \&amp;x \&copy;" in markdown(assemble(source))


def test_text_is_written_as_utf8_and_not_escaped() -> None:
    data = files(assemble(make_source(make_span(0, 9, spoken(("Grüße,", 0, 1), ("世界", 1, 2))))))
    assert "Grüße, 世界".encode() in data["result.json"].data
    assert data["text.txt"].data == "Grüße, 世界\n".encode()


def test_the_text_of_a_document_is_its_words_and_nothing_else() -> None:
    pages = text(paper(), name="text.txt").split("\f")
    assert [page.split() for page in pages] == [
        ["Annual", "Report", "1.", "Introduction", "#", "No", "heading"],
        [],
        ["Item", "Price", "Tea", "3", "•", "one", "-", "two", "x", "=", "`1`"],
    ]


def test_the_text_of_a_table_without_words_is_that_of_its_cells() -> None:
    source = assemble(make_source(make_page(1, block("", "table", rows=[["a", "b"], ["c"]])), tasks=("document",)))
    assert plain(source) == "a\tb\nc\n"


def test_the_text_of_a_talk_breaks_into_paragraphs_at_pauses() -> None:
    span = make_span(0, 60, spoken(("One.", 0, 1)), spoken(("Two.", 1.5, 2)), spoken(("Three.", 9, 10)))
    assert plain(assemble(make_source(span))) == "One. Two.\n\nThree.\n"
    assert plain(assemble(make_source(make_span(0, 60)))) == ""


def test_markdown_of_a_talk_names_times_shots_and_gaps() -> None:
    made = text(talk(), name="result.md")
    assert made.startswith("# talk.mp4\n\n|  |  |\n| --- | --- |\n| Source | file:///talk.mp3 |\n")
    for part in (
        "- Costs rose by 5%. [00:00:01]\n",
        "## Transcript\n\n[00:00:01] Costs rose\\_by 5%.\n",
        "[00:00:00 - 00:00:30] A slide.  \nOn screen: Q3 \\*results\\*\n",
        "| Video | 60.000 s | 30.000 s | 0.000 s | 30.000 s |\n",
        "- Video [00:00:30 - 00:01:00] failed: no answer in 600 s\n",
    ):
        assert part in made


def test_markdown_of_a_document_keeps_its_structure() -> None:
    made = text(paper(), name="result.md")
    for part in (
        "- Tea. ([page 3](#page-3))\n",
        "### Page 1\n\n#### Annual Report\n\n##### 1\\. Introduction\n\n\\# No heading\n\n### Page 2\n\n### Page 3\n",
        "| Item | Price |\n| --- | --- |\n| Tea \\| milk |  |\n",
        "\n- one\n- two\n",
        "```\nx = `1`\n```\n",
        "| Pages | 3 | 2 | 1 | 0 |\n\nNo gaps.\n",
    ):
        assert part in made


def test_markdown_of_a_source_without_result_says_why() -> None:
    error = {"type": "encrypted", "message": "it asks for a password"}
    made = text(assemble(make_source(error=error)), name="result.md")
    assert "**There is no result:** it asks for a password\n" in made
    assert "- Speech [00:00:00 - 00:01:00] failed: it asks for a password\n" in made


@pytest.mark.parametrize("keys", [None, {"text.txt": "local/j1/1/2/text.txt"}])
def test_the_manifest_names_every_file_with_its_checksum(keys: dict[str, str] | None) -> None:
    made = list(files(paper()).values())
    listed = manifest("j1", 1, 2, made, keys)
    content = json.loads(listed.data)
    assert (listed.name, listed.format, listed.media_type) == ("manifest.json", "manifest", "application/json")
    assert {name: content[name] for name in ("schema_version", "job_id", "revision", "generation")} == {
        "schema_version": "1", "job_id": "j1", "revision": 1, "generation": 2}  # fmt: skip
    assert [entry["name"] for entry in content["files"]] == [file.name for file in made]
    for entry, file in zip(content["files"], made, strict=True):
        assert entry["sha256"] == hashlib.sha256(file.data).hexdigest() and entry["size_bytes"] == len(file.data)
        assert entry.get("key") == (keys or {}).get(file.name)
