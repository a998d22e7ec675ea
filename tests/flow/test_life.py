"""Each medium through each way in, on the whole stack: what comes out is what the file holds."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import Running, eventually

pytestmark = pytest.mark.servers

SPOKEN = "it was the best of times it was the worst of times"
FILES = ("two_cities.wav", "bigbuckbunny.mp4", "report.pdf")


def words(text: str) -> str:
    return " ".join("".join(sign for sign in text.lower() if sign.isalnum() or sign == " ").split())


def check(stack: Running, job: dict[str, Any], name: str) -> None:
    """The result of one of the samples, in rows and in files."""
    assert job["state"] == "succeeded", (job, stack.logs())
    result = json.loads(stack.result(job, "json"))
    (source,) = result["sources"]
    assert source["name"] == name
    for total in source["coverage"]["totals"].values():
        assert total["total"] == pytest.approx(total["done"] + total["empty"] + total["failed"], abs=1e-9)
        assert total["failed"] == 0
    match name:
        case "two_cities.wav":
            assert SPOKEN in words(stack.result(job, "txt").decode())
            assert "-->" in stack.result(job, "srt").decode()
            assert stack.result(job, "vtt").startswith(b"WEBVTT")
            found = stack.sql("select * from omni_v1.transcript_words where job_id = %s order by start_s", job["id"])
            assert len(found) > 80 and {word["method"] for word in found} == {"alignment"}
            starts = [word["start_s"] for word in found]
            assert starts == sorted(starts) and starts[0] >= 0 and found[-1]["end_s"] <= source["duration_s"]
        case "bigbuckbunny.mp4":
            found = stack.sql("select * from omni_v1.captions where job_id = %s order by start_s", job["id"])
            assert found and found[0]["start_s"] == pytest.approx(0, abs=0.1)
            assert found[-1]["end_s"] == pytest.approx(source["duration_s"], abs=0.2)
        case _:
            pages = stack.sql("select * from omni_v1.pages where job_id = %s order by page", job["id"])
            assert [page["text_source"] for page in pages] == ["text_layer", "ocr"]
            assert "Council meetings" in pages[0]["text"] and "Albrecht" in pages[1]["text"]
            tables = stack.sql(
                "select table_rows from omni_v1.page_blocks where job_id = %s and kind = 'table'", job["id"]
            )
            assert tables and ["Harbour survey", "86", "41", "100 %"] in tables[0]["table_rows"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_sent_by_rest_becomes_rows_and_files(stack: Running, inputs: Path, name: str) -> None:
    check(stack, stack.done(stack.submit(inputs / name, reuse=False)), name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_named_by_uri_is_answered_as_it_was_when_it_was_taken(stack: Running, inputs: Path, name: str) -> None:
    path = stack.shelf / name
    path.write_bytes((inputs / name).read_bytes())
    job = stack.client.submit_uri(f"file://{path.as_posix().replace(' ', '%20')}")
    check(stack, stack.done(job), name)
    path.unlink()


def test_files_dropped_into_a_folder_get_their_results_beside_them(stack: Running, inputs: Path) -> None:
    for name in FILES:
        (stack.inbox / name).write_bytes((inputs / name).read_bytes())
    for name in FILES:
        beside = stack.inbox / f"{Path(name).stem}.result.json"
        result = json.loads(eventually(lambda path=beside: path.exists() and path.read_text(), 120))
        assert result["sources"][0]["name"] == name
    assert (stack.inbox / "two_cities.srt").read_text().strip()
    time.sleep(3)  # several looks of the watcher
    jobs = stack.sql("select state, count(*) as n from omni.jobs where origin = 'folder' group by state")
    assert jobs == [{"state": "succeeded", "n": len(FILES)}], stack.logs()


def test_objects_put_into_a_bucket_get_their_results_under_a_prefix(stack: Running, inputs: Path) -> None:
    bucket = stack.bucket()
    for name in FILES:
        bucket.put_object(Bucket="omni", Key=f"incoming/{name}", Body=(inputs / name).read_bytes())

    def delivered() -> bool:
        listed = bucket.list_objects_v2(Bucket="omni", Prefix="omni-results/").get("Contents", [])
        return sum(one["Key"].endswith("manifest.json") for one in listed) >= len(FILES)

    eventually(delivered, 120)
    time.sleep(3)
    jobs = stack.sql("select state, count(*) as n from omni.jobs where origin = 'bucket' group by state")
    assert jobs == [{"state": "succeeded", "n": len(FILES)}], stack.logs()


def test_run_writes_what_the_tasks_have_and_says_where(stack: Running, inputs: Path, tmp_path: Path) -> None:
    files = [str(inputs / name) for name in FILES]
    ran = stack.command("run", *files, "--out", str(tmp_path / "out"), "--json")
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert [job["source"] for job in document["jobs"]] == files
    audio, video, paper = document["jobs"]
    assert set(audio["files"]) >= {"json", "txt", "srt", "vtt", "md"} and "json" in video["files"]
    assert "srt" not in paper["files"]
    for job in document["jobs"]:
        assert all(Path(path).stat().st_size or path.endswith(".srt") for path in job["files"].values())


def test_a_second_submission_is_answered_from_the_first_and_says_so(stack: Running, inputs: Path) -> None:
    first = stack.done(stack.submit(inputs / "two_cities.wav"))
    second = stack.done(stack.submit(inputs / "two_cities.wav"))
    assert second["reused_from"] and second["state"] == "succeeded"
    assert json.loads(stack.result(second, "json"))["job"]["reused_from"] == second["reused_from"]
    assert stack.result(first, "srt") == stack.result(second, "srt")
    kinds = stack.sql("select distinct kind from omni.units where job_id = %s and reused_from is null", second["id"])
    assert {one["kind"] for one in kinds} == {"prepare", "deliver"}


def test_one_search_finds_speech_and_paper(stack: Running, inputs: Path) -> None:
    for name in ("two_cities.wav", "report.pdf"):
        stack.done(stack.submit(inputs / name))
    (said, *_) = stack.sql("select * from omni_v1.search(%s)", '"worst of times"')
    assert said["medium"] == "speech" and said["end_s"] - said["start_s"] < 5
    (seen, *_) = stack.sql("select * from omni_v1.search(%s)", "Albrecht")
    assert (seen["medium"], seen["page"]) == ("page", 2) and seen["x1"] > seen["x0"]


def test_canonical_media_are_gone_when_the_job_has_ended(stack: Running, inputs: Path) -> None:
    job = stack.done(stack.submit(inputs / "report.pdf", reuse=False))
    prefix = f"default/{job['id']}/"
    bucket = stack.bucket()

    def left() -> list[str]:
        return [one["Key"] for one in bucket.list_objects_v2(Bucket="omni", Prefix=prefix).get("Contents", [])]

    eventually(lambda: not any("/media/" in key for key in left()), 20)
    assert any("/source/" in key for key in left()) and any(key.endswith("result.json") for key in left())
