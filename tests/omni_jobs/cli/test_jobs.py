"""`submit`, `list`, `status`, `result`, `cancel`, `logs`."""

import io
import json
import os
from pathlib import Path

import pytest

from omni_jobs.cli import stack
from tests.omni_jobs.cli.conftest import Run, make_file, start
from tests.omni_jobs.cli.fake_api import DONE, FAILED, MEDIA_PROGRESS, PARTIAL, RUNNING, FakeApi

UNKNOWN = "01990000-0000-7000-8000-000000000000"


def test_submit_prints_the_id(api: FakeApi, served: Path, run: Run) -> None:
    make_file(served / "x.wav")
    ran = run("submit", "x.wav", "--language", "de")
    assert (ran.status, ran.out) == (0, f"{next(iter(api.jobs))}\n")
    assert api.submitted[0][1]["options"] == {"language": "de"}


def test_submit_hands_a_uri_to_the_server(api: FakeApi, served: Path, run: Run) -> None:
    assert run("submit", "s3://media/talk.mp4", "--task", "caption", "--json").document["state"] == "queued"
    assert api.submitted[0][1] == {"uri": "s3://media/talk.mp4", "task": "caption", "options": {}}


@pytest.mark.parametrize(("last", "status"), [(DONE, 0), (FAILED, 1), (PARTIAL, 3)])
def test_submit_can_wait(api: FakeApi, served: Path, run: Run, last: dict[str, object], status: int) -> None:
    make_file(served / "x.wav")
    api.scripts["x.wav"] = [RUNNING, last]
    ran = run("submit", "x.wav", "--wait", "--json")
    assert (ran.status, ran.document["state"]) == (status, last["state"])


def test_submit_refuses_what_is_not_there(served: Path, run: Run) -> None:
    (served / "folder").mkdir()
    assert run("submit", "gone.wav").err == "error: no such file: gone.wav\n"
    assert "omni-jobs run folder" in run("submit", "folder").err


def test_list_shows_the_newest_first(api: FakeApi, served: Path, run: Run) -> None:
    one, two = api.add("one.wav"), api.add("two.wav", **RUNNING)
    lines = run("list").out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [two["id"], one["id"]]
    assert lines[2].split()[1:3] == ["map", "25%"]
    assert [job["id"] for job in run("list", "--state", "queued", "--json").document["jobs"]] == [one["id"]]
    assert len(run("list", "--limit", "1", "--json").document["jobs"]) == 1


def test_list_asks_for_no_more_than_it_shows(api: FakeApi, served: Path, run: Run) -> None:
    for limit in (1, 1000):
        assert run("list", "--limit", str(limit)).status == 0
    assert api.limits == [1, 100]


def test_status_shows_phase_progress_coverage_and_error(api: FakeApi, served: Path, run: Run) -> None:
    api.scripts["x.wav"] = [RUNNING]
    going, gaps = api.add("x.wav"), api.add("y.wav", **PARTIAL)
    failed = api.add("z.pdf", **FAILED)
    said = run("status", going["id"]).out
    assert "running (map)" in said
    assert "25% 00:30/02:00 ETA 01:30" in said
    assert "1 of 4 done" in said
    assert "speech: done 01:30, empty 00:00, failed 00:30" in run("status", gaps["id"]).out
    assert "encrypted: it needs a password" in run("status", failed["id"]).out
    assert run("status", going["id"], "--json").document["progress"] == MEDIA_PROGRESS


def test_a_job_may_be_named_by_the_begin_of_its_id(api: FakeApi, served: Path, run: Run) -> None:
    jobs = [api.add(f"{n}.wav") for n in range(3)]
    assert run("status", jobs[1]["id"][:8].upper(), "--json").document["id"] == jobs[1]["id"]
    assert run("status", jobs[1]["id"][:20], "--json").document["id"] == jobs[1]["id"]
    twin = api.add("twin.wav")
    twin["id"] = jobs[2]["id"][:-1] + "9"
    ran = run("status", jobs[2]["id"][:8])
    assert (ran.status, "2 jobs begin with" in ran.err) == (2, True)


@pytest.mark.parametrize("command", ["status", "result", "cancel", "logs", "retry", "delete"])
@pytest.mark.parametrize("job", ["nonsense", "../../etc", "0199", UNKNOWN, "01990000", "ffffffff"])
def test_a_job_that_is_none_is_one_line(api: FakeApi, served: Path, run: Run, command: str, job: str) -> None:
    api.add("x.wav")
    ran = run(command, job)
    assert ran.status == 2
    assert ran.err.startswith("error: ")
    assert len(ran.err.splitlines()) == 1
    assert ran.out == ""


def test_result_goes_to_stdout_or_into_a_file(api: FakeApi, served: Path, run: Run) -> None:
    job = api.add("x.wav", **DONE)
    assert run("result", job["id"], "--format", "vtt").out == "vtt of x.wav "
    make_file(served / "x.srt", b"old")
    assert run("result", job["id"], "--format", "srt", "-o", "x.srt").out == ""
    assert (served / "x.srt").read_text() == "srt of x.wav "
    ran = run("result", job["id"], "-o", "no/such/x.json")
    assert (ran.status, "No such file or directory" in ran.err) == (1, True)


def test_a_result_goes_into_a_file_not_a_folder_and_a_device_stays_one(
    api: FakeApi, served: Path, run: Run
) -> None:  # fmt: skip
    job = api.add("x.wav", **DONE)
    for folder in (".", "/"):
        ran = run("result", job["id"], "-o", folder)
        assert (ran.status, ran.err) == (2, f"error: -o: expected a file to write, got the folder {folder}\n")
    os.mkfifo(served / "pipe")
    reader = os.open(served / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert run("result", job["id"], "--format", "srt", "-o", "pipe").status == 0
    assert os.read(reader, 100) == b"srt of x.wav "
    os.close(reader)
    assert (served / "pipe").is_fifo()


def test_the_result_of_an_open_job_is_a_failure(api: FakeApi, served: Path, run: Run) -> None:
    api.scripts["x.wav"] = [RUNNING]
    ran = run("result", api.add("x.wav")["id"])
    assert (ran.status, ran.err) == (1, "error: the job is not done yet\n")


def test_cancel_ends_a_job(api: FakeApi, served: Path, run: Run) -> None:
    job = api.add("x.wav")
    assert run("cancel", job["id"]).out == f"{job['id']} cancelled\n"


def test_retry_goes_on_with_what_is_missing(api: FakeApi, served: Path, run: Run) -> None:
    job = api.add("x.pdf", **FAILED)
    make_file(served / "word.txt", b"secret\n")
    assert run("retry", job["id"][:8], "--password-file", "word.txt").out == f"{job['id']} running, revision 2\n"
    assert run("retry", job["id"], "--json").document["revision"] == 3
    assert [body.get("password") or "" for _, body in api.retried] == ["secret", ""]


def test_delete_says_what_and_asks(
    api: FakeApi, served: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    one, two = api.add("one.wav", **DONE), api.add("two\x1b.wav")
    for typed, status, message in (("", 2, "--yes deletes without asking"), ("n\n", 1, "nothing was deleted")):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        ran = run("delete", one["id"], two["id"])
        assert (ran.status, message in ran.err, len(api.jobs)) == (status, True, 2)
        assert f"{one['id']}  succeeded  one.wav" in ran.err
        assert "Delete these 2 jobs with all results, rows and stored bytes?" in ran.err
        assert ran.out == ""
    # One that is none: nothing is touched.
    assert run("delete", one["id"], UNKNOWN, "--yes").status == 2
    assert len(api.jobs) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    ran = run("delete", one["id"], one["id"][:8])
    assert (ran.status, ran.out, list(api.jobs)) == (0, f"deleted {one['id']}  one.wav\n", [two["id"]])
    assert run("delete", two["id"], "--yes", "--json").document == {
        "jobs": [{"id": two["id"], "name": two["name"], "deleted": True, "error": None}]
    }


def test_dead_units_are_listed_with_their_error(api: FakeApi, served: Path, run: Run) -> None:
    assert run("dead").out == "no dead units\n"
    assert run("dead", "--json").document == {"units": []}
    api.dead = [
        {"unit_id": UNKNOWN, "job_id": UNKNOWN, "job_name": "talk", "job_state": "partial", "source": "talk.wav",
         "kind": "span", "position": n, "revision": 1, "lost": 2, "failed": n, "rejected": 0,
         "error": {"type": "crashed", "message": "the worker died", "retryable": True}, "finished_at": None}
        for n in range(3)
    ]  # fmt: skip
    lines = run("dead", "--limit", "2").out.splitlines()
    assert lines[0].split() == ["job", "source", "kind", "no", "lost", "failed", "rejected", "error"]
    assert [line.split(maxsplit=7) for line in lines[2:]] == [
        [UNKNOWN, "talk.wav", "span", str(n), "2", str(n), "0", "crashed: the worker died"] for n in range(2)
    ]
    assert run("dead", "--json").document["units"] == api.dead


def test_logs_are_numbered_and_can_be_followed(api: FakeApi, served: Path, run: Run) -> None:
    api.events = [
        {"seq": n, "at": "2026-08-01T10:00:00Z", "type": f"unit.{n}", "data": {"kind": "span"}} for n in (1, 2)
    ]
    job = api.add("x.wav")
    lines = run("logs", job["id"]).out.splitlines()
    assert [line.split() for line in lines] == [
        [str(n), "2026-08-01T10:00:00Z", f"unit.{n}", "kind=span"] for n in (1, 2)
    ]
    api.scripts["x.wav"] = [RUNNING, DONE]
    followed = run("logs", job["id"], "--follow", "--json").out.splitlines()
    assert [json.loads(line)["seq"] for line in followed] == [1, 2]


def test_without_a_stack_it_says_how_to_start_one(place: Path, run: Run) -> None:
    for words in (["list"], ["status", UNKNOWN], ["search", "x"], ["sql", "select 1"], ["sql", "--dsn"]):
        ran = run(*words)
        assert ran.status == 1
        assert ran.err == f"error: nothing runs on {place.parent / 'home'}: start it with `omni-jobs up`\n"
    assert run("list", "--json").document["error"] == {
        "type": "unavailable",
        "message": f"nothing runs on {place.parent / 'home'}: start it with `omni-jobs up`",
        "retryable": True,
    }


def test_an_api_that_does_not_answer_is_one_line(
    api: FakeApi, served: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_API_URL", "http://127.0.0.1:9")
    ran = run("list")
    assert (ran.status, len(ran.err.splitlines())) == (1, 1)
    assert "does not answer" in ran.err


def test_a_watcher_is_told_what_is_asked_of_its_files(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    given: list[str] = []

    def watcher(arguments: list[str], environment: dict[str, str]) -> int:
        given.extend(arguments)
        return 0

    monkeypatch.setenv("OMNI_DATABASE_URL", "postgresql://x")
    monkeypatch.setenv("OMNI_BLOB_URL", "file:///x")
    monkeypatch.setattr(stack, "_run_watcher", watcher)
    assert run("watch", ".", "--priority", "-5", "--deadline", "+2h", "--on-gap", "fail").status == 0
    assert given == [str(place), "--priority=-5", "--deadline=+2h", "--on-gap=fail"]
    assert run("watch", ".", "--deadline", "soon").status == 2


def test_down_with_nothing_running_is_fine(place: Path, run: Run) -> None:
    assert run("down").status == 0


def test_a_bad_setting_is_named(place: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_API_PORT", "eighty")
    ran = run("list")
    assert ran.status == 2
    assert ran.err.startswith("error: OMNI_API_PORT: ")


def test_the_trace_shows_when_asked_for(place: Path) -> None:
    _, err = start("list", OMNI_DEBUG="1").communicate(timeout=20)
    assert "Traceback" in err
