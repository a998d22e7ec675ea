"""The published schema of `result.json`."""

import jsonschema_rs
import pytest

from omni_jobs.result import SCHEMA_ID, Answerer, JobPart, Result, SourceResult, json_schema


def make_result() -> Result:
    source = SourceResult(
        source_id="s", name="a.mp3", uri="file:///a.mp3", sha256=None, size_bytes=None, medium=None
    )  # fmt: skip
    job = JobPart(job_id="j", revision=1, state="failed", created_at="2025-01-01T00:00:00Z", options={})
    return Result(job=job, answered_by=Answerer(backend="x", models={}, digest="", version="0"), sources=[source])


def test_the_schema_is_a_valid_one_with_its_name() -> None:
    schema = json_schema()
    assert (schema["$id"], schema["$schema"]) == (SCHEMA_ID, "https://json-schema.org/draft/2020-12/schema")
    jsonschema_rs.meta.validate(schema)


def test_a_result_is_valid_and_reads_back_the_same() -> None:
    content = make_result().model_dump(mode="json")
    jsonschema_rs.validator_for(json_schema()).validate(content)
    assert Result.model_validate(content) == make_result()


@pytest.mark.parametrize("change", [{"sources": None}, {"schema_version": "2"}, {"more": 1}, {"job": {}}])
def test_what_is_no_result_is_refused(change: dict[str, object]) -> None:
    content = make_result().model_dump(mode="json") | change
    assert not jsonschema_rs.validator_for(json_schema()).is_valid(content)
