"""Broken, lying and malicious files through the whole stack: each ends as its manifest allows, and all others go on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from omni_jobs.errors import ErrorType
from tests.flow.conftest import Running

pytestmark = pytest.mark.servers

# 5,000 pages: minutes; `tests/workers/media` reads them all.
SLOW = {"hostile/pdf/many_pages.pdf"}


@pytest.fixture(scope="module")
def cases(media: Path) -> dict[str, dict[str, Any]]:
    entries = json.loads((media / "MANIFEST.json").read_text())["files"]
    return {one["file"]: one for one in entries if one["file"].startswith("hostile/")}


@pytest.fixture(scope="module")
def ended(stack: Running, media: Path, cases: dict[str, Any]) -> Iterator[dict[str, dict[str, Any]]]:
    """All of them submitted at once, and what became of each."""
    jobs = {name: stack.submit(media / name) for name in cases if name not in SLOW}
    yield {name: stack.done(job, 300) for name, job in jobs.items()}


def promised(expected: dict[str, Any], job: dict[str, Any], result: dict[str, Any], media: Path, files: Any) -> bool:
    """Whether a result is what the manifest calls all right."""
    ok = expected["ok"]
    (source,) = result["sources"]
    text = " ".join(page["text"] for page in (source["document"] or {"pages": []})["pages"])
    said = " ".join(segment["text"] for segment in (source["transcript"] or {"segments": []})["segments"])
    shown = source["duration_s"]
    checks = {
        "text": lambda value: (text + said).strip() == value,
        "text_contains": lambda value: value in text,
        "same_text_as": lambda value: True,  # compared in tests/workers/media, by words
        "duration": lambda value: shown == pytest.approx(value, abs=0.1),
        "max_duration": lambda value: shown <= value,
        "duration_of": lambda value: shown == pytest.approx(files[value]["facts"]["duration"], abs=0.5),
        "as": lambda value: source["medium"] == value,
        "pages": lambda value: source["pages"] == value,
        "frames": lambda value: source["captions"]["captions"] != [],
        "partial": lambda value: True,  # damage may be heard or seen through: `partial` and `succeeded` are both right
    }
    return job["state"] in ("succeeded", "partial") and all(checks[name](value) for name, value in ok.items())


def test_each_ends_as_its_manifest_allows(stack: Running, media: Path, cases: Any, ended: Any) -> None:
    files = {one["file"]: one for one in json.loads((media / "MANIFEST.json").read_text())["files"]}
    wrong = []
    for name, job in ended.items():
        expected = cases[name]["expected"]
        if job["state"] == "failed":
            right = job["error"]["type"] in expected.get("error", ())
        else:
            right = "ok" in expected and promised(expected, job, json.loads(stack.result(job, "json")), media, files)
        if not right:
            wrong.append((name, job["state"], job["error"], expected))
    assert not wrong, "\n".join(map(str, wrong))


def test_errors_are_sentences_of_the_closed_list(ended: Any) -> None:
    errors = [job["error"] for job in ended.values() if job["state"] == "failed"]
    assert len(errors) > 20
    for error in errors:
        assert error["type"] in set(ErrorType) and error["type"] not in ("internal", "crashed")
        assert " " in error["message"] and "Traceback" not in error["message"] and "Error:" not in error["message"]


def test_nobody_died_of_it(stack: Running, ended: Any) -> None:
    lost = stack.sql(
        """select j.name, u.kind, u.error from omni.units u join omni.jobs j using (job_id)
        where u.lost > 0 and j.name = any(%s)""",
        [Path(name).name for name in ended],
    )
    assert lost == []


def test_what_was_left_out_is_in_the_coverage(stack: Running, ended: Any) -> None:
    partial = [job for job in ended.values() if job["state"] == "partial"]
    assert len(partial) > 3  # eight, but a decoder may come to hear or see through damage
    for job in partial:
        gaps = stack.sql("select reason from omni_v1.coverage where job_id = %s and state = 'failed'", job["id"])
        assert gaps and all(gap["reason"] for gap in gaps)
