"""`omni-jobs run`: what is submitted, what is written, what is said, and the exit status."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from omni_jobs.cli import outputs, reach
from omni_jobs.cli.faults import fault_of
from omni_jobs.cli.follow import submit_problem
from omni_jobs.embedded.identity import identify
from omni_jobs.embedded.state import State
from omni_jobs.errors import ErrorType, OmniError, Problem, Refused, TooMany, Unavailable
from omni_jobs.intake.names import SUFFIXES
from tests.omni_jobs.cli.conftest import Run, make_file, start
from tests.omni_jobs.cli.fake_api import CANCELLED, DONE, FAILED, KEY, PARTIAL, RUNNING, FakeApi

WRITTEN = {"json": "result.json", "txt": "txt", "srt": "srt", "vtt": "vtt", "md": "md"}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_file_gives_all_its_results(api: FakeApi, served: Path, run: Run) -> None:
    make_file(served / "talk.mp4")
    ran = run("run", "talk.mp4")
    assert ran.status == 0
    assert names_in(served / "omni-out") == sorted(f"talk.{ending}" for ending in WRITTEN.values())
    assert (served / "omni-out/talk.srt").read_text() == "srt of talk.mp4 "
    assert str(served / "omni-out") in ran.out
    assert api.submitted == [("talk.mp4", {"name": "talk.mp4", "options": {}}, True)]


def test_the_document_has_an_entry_per_file_in_order_with_absolute_paths(
    api: FakeApi, served: Path, run: Run
) -> None:  # fmt: skip
    for name in ("b.mp4", "rec/2.wav", "rec/sub/1.mp3", "a.pdf"):
        make_file(served / name)
    api.scripts["b.mp4"] = [RUNNING] * 4 + [DONE]
    ran = run("run", "b.mp4", "rec", "a.pdf", "--json", "--out", "out")
    jobs = ran.document["jobs"]
    assert ran.status == 0
    assert set(ran.document) == {"jobs"}
    assert [job["source"] for job in jobs] == [
        str(served / name) for name in ("b.mp4", "rec/2.wav", "rec/sub/1.mp3", "a.pdf")
    ]
    assert all(set(job) == {"id", "source", "state", "files", "error", "coverage"} for job in jobs)
    assert jobs[0]["files"] == {format: str(served / f"out/b.{ending}") for format, ending in WRITTEN.items()}
    assert jobs[0]["coverage"]["speech"]["done"] == 120.0
    assert all(Path(path).is_file() for job in jobs for path in job["files"].values())


@pytest.mark.parametrize(
    ("scripts", "status"),
    [
        ([DONE, DONE], 0),
        ([DONE, FAILED], 1),
        ([DONE, CANCELLED], 1),
        ([DONE, PARTIAL], 3),
        ([FAILED, PARTIAL], 1),
    ],
)
def test_the_exit_status_says_what_became_of_the_files(
    api: FakeApi, served: Path, run: Run, scripts: list[dict[str, object]], status: int
) -> None:
    for n, last in enumerate(scripts):
        api.scripts[make_file(served / f"{n}.wav").name] = [last]
    assert run("run", "0.wav", "1.wav").status == status


def test_a_failing_file_does_not_stop_the_others(api: FakeApi, served: Path, run: Run) -> None:
    for name in ("good.wav", "bad.pdf", "odd.mp4", "last.wav"):
        make_file(served / name)
    os.mkfifo(served / "pipe.wav")
    api.scripts["bad.pdf"] = [FAILED]
    api.refused["odd.mp4"] = (415, {"type": "/problems/unsupported", "detail": "not a medium we read"})
    ran = run("run", "good.wav", "bad.pdf", "pipe.wav", "odd.mp4", "last.wav", "--json")
    good, bad, pipe, odd, last = ran.document["jobs"]
    assert ran.status == 1
    assert (good["state"], last["state"]) == ("succeeded", "succeeded")
    assert bad["error"] == FAILED["error"]
    assert bad["id"]
    assert (pipe["id"], pipe["state"], pipe["error"]["type"]) == (None, "failed", "unreadable")
    assert (odd["id"], odd["state"], odd["error"]["type"]) == (None, "failed", "unsupported")
    assert {job["error"]["type"] for job in (bad, pipe, odd)} <= set(ErrorType)
    assert "bad.pdf: failed: encrypted: it needs a password" in ran.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_unreadable(served: Path, run: Run) -> None:
    make_file(served / "secret.wav").chmod(0)
    assert run("run", "secret.wav", "--json").document["jobs"][0]["error"]["type"] == "unreadable"


def test_a_broken_link_is_unreadable(served: Path, run: Run) -> None:
    (served / "gone.wav").symlink_to(served / "nowhere.wav")
    assert run("run", "gone.wav", "--json").document["jobs"][0]["error"]["type"] == "unreadable"


def test_files_of_one_name_get_names_of_their_own(served: Path, run: Run) -> None:
    for name in ("x.mp4", "x.wav", "sub/x.mp4", "other/x.mp4"):
        make_file(served / name)
    ran = run("run", "x.mp4", "x.wav", "sub/x.mp4", "other/x.mp4", "--json")
    found = [Path(job["files"]["srt"]).name for job in ran.document["jobs"]]
    assert found == ["x.srt", "x.wav.srt", "x.mp4.srt", "x.mp4.2.srt"]


def test_nothing_is_overwritten(api: FakeApi, served: Path, run: Run) -> None:
    make_file(served / "x.mp4")
    make_file(served / "omni-out/x.srt", b"mine")
    assert [Path(path).name for path in run("run", "x.mp4", "--json").document["jobs"][0]["files"].values()] == [
        f"x.mp4.{ending}" for ending in WRITTEN.values()
    ]
    api.contents["x.mp4"] = b"otherwise"
    assert Path(run("run", "x.mp4", "--json").document["jobs"][0]["files"]["srt"]).name == "x.mp4.2.srt"
    assert (served / "omni-out/x.srt").read_bytes() == b"mine"
    assert (served / "omni-out/x.mp4.srt").read_bytes() == b"srt of x.mp4 "


def test_force_overwrites(served: Path, run: Run) -> None:
    make_file(served / "x.mp4")
    make_file(served / "omni-out/x.srt", b"mine")
    run("run", "x.mp4", "--force")
    assert (served / "omni-out/x.srt").read_bytes() == b"srt of x.mp4 "
    assert len(names_in(served / "omni-out")) == len(WRITTEN)


@pytest.mark.parametrize("words", [[], ["--force"]])
def test_a_source_is_never_written_over(served: Path, run: Run, words: list[str]) -> None:
    make_file(served / "fo/talk.md", b"a recording")
    make_file(served / "other.mp4")
    (served / "other.srt").symlink_to(served / "fo/talk.md")
    (job,) = run("run", "fo/talk.md", "--out", "fo", "--json", *words).document["jobs"]
    assert (served / "fo/talk.md").read_bytes() == b"a recording"
    assert Path(job["files"]["md"]).name == "talk.md.md"
    # Nor under another of its names: `out` is `fo`.
    (served / "out").symlink_to(served / "fo")
    os.link(served / "fo/talk.md", served / "fo/other.txt")
    _, other = run("run", "fo/talk.md", "other.mp4", "--out", "out", "--json", *words).document["jobs"]
    assert Path(other["files"]["txt"]).name == "other.mp4.txt"
    assert (served / "fo/talk.md").read_bytes() == (served / "fo/other.txt").read_bytes() == b"a recording"


def test_the_same_command_again_leaves_one_set_of_files(api: FakeApi, served: Path, run: Run) -> None:
    for name in ("x.mp4", "x.wav"):
        make_file(served / name)
    first = run("run", "x.mp4", "x.wav", "--json").document["jobs"]
    before = {path: path.stat().st_mtime_ns for path in (served / "omni-out").iterdir()}
    again = run("run", "x.mp4", "x.wav", "--json").document["jobs"]
    assert {path: path.stat().st_mtime_ns for path in (served / "omni-out").iterdir()} == before
    assert [job["files"] for job in first] == [job["files"] for job in again]
    # Other jobs, whose result.json names them, but the same statement.
    assert [job["id"] for job in first] != [job["id"] for job in again]


def test_the_same_file_twice_is_one_job_and_two_entries(api: FakeApi, served: Path, run: Run) -> None:
    make_file(served / "x.wav")
    one, two = run("run", "x.wav", "./x.wav", "--json").document["jobs"]
    assert one == two
    assert len(api.jobs) == 1


def test_a_very_long_name_still_gives_files(served: Path, run: Run) -> None:
    make_file(served / ("ä" * 125 + ".wav"))
    assert run("run", "*.wav").status == 0
    assert len(names_in(served / "omni-out")) == len(WRITTEN)


def test_folders_and_globs_are_expanded(api: FakeApi, served: Path, run: Run) -> None:
    for name in ("in/b.MP3", "in/a.wav", "in/notes.txt", "in/.hidden.wav", "in/.git/x.wav", "in/deep/c.pdf"):
        make_file(served / name)
    (served / "in/loop").symlink_to(served / "in")
    run("run", "in")
    assert [name for name, _, _ in api.submitted] == ["a.wav", "b.MP3", "c.pdf"]
    api.submitted.clear()
    run("run", "in/**/*.[pt]*")
    assert [name for name, _, _ in api.submitted] == ["c.pdf", "notes.txt"]


def test_a_folder_leaves_nothing_out_unsaid(
    served: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    for name in ("in/a.wav", "in/deep/b.wav", "in/locked/c.wav"):
        make_file(served / name)
    os.mkfifo(served / "in/pipe.wav")
    (served / "in/gone.mp3").symlink_to(served / "nowhere.mp3")
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    ran = run("run", "in", "--json")
    found = {Path(job["source"]).name: job for job in ran.document["jobs"]}
    assert ran.status == 1
    assert {name for name, job in found.items() if job["state"] == "succeeded"} == {"a.wav", "b.wav"}
    assert {name: job["error"]["type"] for name, job in found.items() if job["error"]} == dict.fromkeys(
        ("gone.mp3", "pipe.wav", "locked"), "unreadable"
    )
    assert "locked: failed: unreadable: cannot look into the folder" in ran.err


def test_run_and_watch_agree_on_what_is_called_like_media(api: FakeApi, served: Path, run: Run) -> None:
    for suffix in SUFFIXES:
        make_file(served / f"in/x{suffix}")
    assert run("run", "in").status == 0
    assert len(api.submitted) == len(SUFFIXES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["talk.wav", "gone.wav"], "no such file or folder: gone.wav"),
        (["empty"], "no audio, video, image or PDF in empty"),
        (["*.avi"], "no file matches *.avi"),
        (["s3://media/x.mp4"], "use `omni-jobs submit s3://media/x.mp4`"),
        (["talk.wav", "--pages", "9-2"], "--pages: expected pages"),
        (["talk.wav", "--pages", "x"], "--pages: expected pages such as 1-3,7, got 'x'"),
        (["talk.wav", "--from", "1:75"], "--from: expected seconds or hh:mm:ss"),
        (["talk.wav", "--from", "-3"], "--from: expected seconds or hh:mm:ss"),
        (["talk.wav", "--from", "60", "--to", "0:30"], "--to must lie after --from, got --from 60 --to 0:30"),
        (["talk.wav", "--from", "9" * 400], "--from: expected seconds or hh:mm:ss"),
        (["talk.wav", "--pages", "\u0663"], "--pages: expected pages such as 1-3,7"),
        (["talk.wav", "--pages", "9" * 5000], "--pages: expected pages such as 1-3,7"),
        (["talk.wav", "--priority", "101"], "--priority"),
        (["talk.wav", "--deadline", "yesterday"], "--deadline: expected a time such as"),
        (["talk.wav", "--deadline", "2001-01-01"], "--deadline: expected a time to come"),
        (["talk.wav", "--on-gap", "ignore"], "--on-gap"),
        (["talk.wav", "--language", "Englisch"], "--language: "),
        (["talk.wav", "--task", "sing"], "--task"),
        (["talk.wav", "--task", "auto", "--task", "caption"], "--task auto stands alone"),
        (["talk.wav", "--password-file", "gone.txt"], "--password-file: cannot read gone.txt"),
        (["talk.wav", "--password-file", "two.txt"], "--password-file: expected one line in two.txt, got 2"),
        (["talk.wav", "--out", "two.txt"], "--out: cannot make"),
        (["talk.wav", "--frobnicate"], "No such option: --frobnicate"),
        ([], "Missing argument"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_submitted(
    api: FakeApi, served: Path, run: Run, words: list[str], message: str
) -> None:
    make_file(served / "talk.wav")
    make_file(served / "two.txt", b"a\nb\n")
    (served / "empty").mkdir()
    ran = run("run", *words)
    assert ran.status == 2
    assert ran.err.startswith("error: ")
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1
    assert ran.out == ""
    assert not api.jobs
    document = run("run", *words, "--json").document
    assert message in document["error"]["message"]


def test_options_become_the_request(api: FakeApi, served: Path, run: Run) -> None:
    make_file(served / "x.pdf")
    make_file(served / "word.txt", "pässword \n".encode())
    run("run", "x.pdf", "--task", "transcribe", "--task", "caption", "--language", "en", "--pages", "1-3, 7",
        "--from", "1:30", "--to", "1:00:00.5", "--password-file", "word.txt", "--no-reuse")  # fmt: skip
    assert api.submitted[0][1] == {
        "name": "x.pdf",
        "task": ["transcribe", "caption"],
        "options": {"language": "en", "pages": "1-3,7", "start_s": 90.0, "end_s": 3600.5},
        "reuse": False,
        "password": "pässword ",
    }


@pytest.mark.parametrize(
    ("error", "retryable"),
    [(TooMany("20000 jobs are open"), True), (Unavailable("no answer"), True), (Refused("no key"), False)],
)
def test_a_file_that_was_not_taken_now_is_no_bad_file(error: OmniError, retryable: bool) -> None:
    assert submit_problem(error) == Problem(ErrorType.INTERNAL, str(error), retryable)
    fault = fault_of(error)
    assert (fault.status, fault.document["error"]["retryable"]) == (1, retryable)


def test_order_and_gaps_become_the_request(api: FakeApi, served: Path, run: Run) -> None:
    make_file(served / "x.pdf")
    words = ["--priority", "-5", "--deadline", "2099-01-01T00:00:00Z", "--on-gap", "fail", "--pages", "1"]
    assert run("run", "x.pdf", *words).status == run("submit", "x.pdf", *words).status == 0
    for _, request, _ in api.submitted:
        assert request == {
            "name": "x.pdf",
            "options": {"pages": "1", "on_gap": "fail"},
            "priority": -5,
            "deadline": "2099-01-01T00:00:00+00:00",
        }


def test_a_short_outage_is_waited_out(api: FakeApi, served: Path, run: Run) -> None:
    make_file(served / "x.wav")
    api.scripts["x.wav"] = [RUNNING, RUNNING, DONE]
    run("list")
    real = api.look

    def flaky(job_id: str) -> dict[str, object] | None:
        api.outages, api.look = 2, real  # type: ignore[method-assign]
        return real(job_id)

    api.look = flaky  # type: ignore[method-assign]
    assert run("run", "x.wav").status == 0
    assert api.outages == 0


def test_a_long_outage_is_waited_for_once(
    api: FakeApi, served: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "PATIENCE_S", 0.2)
    for n in range(5):
        make_file(served / f"{n}.wav")
    real = api.look

    def gone(job_id: str) -> dict[str, object] | None:
        api.outages = 1000
        return real(job_id)

    api.look = gone  # type: ignore[method-assign]
    ran = run("run", ".", "--json")
    assert ran.status == 1
    assert {job["error"]["type"] for job in ran.document["jobs"]} == {"internal"}
    assert all(job["error"]["retryable"] for job in ran.document["jobs"])
    assert any(f"omni-jobs status {job_id}" in ran.err for job_id in api.jobs)
    assert 1000 - api.outages < 20


def test_a_wrong_key_is_said_once(served: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_API_KEY", "wrong")
    for n in range(3):
        make_file(served / f"{n}.wav")
    ran = run("run", ".")
    assert (ran.status, ran.err) == (1, "error: expected a valid key\n")


@pytest.mark.parametrize("home", ["nothing runs", "another stack runs"])
def test_the_key_of_the_home_goes_to_its_own_stack_only(
    api: FakeApi, served: Path, run: Run, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    make_file(served.parent / "home/key", KEY.encode())
    monkeypatch.delenv("OMNI_API_KEY")
    if home == "another stack runs":
        runs_at(served.parent / "home", "http://127.0.0.1:9")
    ran = run("list")
    assert (ran.status, f"no key for {api.url}: set OMNI_API_KEY" in ran.err) == (1, True)
    assert not api.limits
    runs_at(served.parent / "home", api.url)
    assert run("list").status == 0


def runs_at(home: Path, url: str) -> None:
    """As if the stack of this home were this process."""
    me = identify(os.getpid())
    assert me is not None
    home.joinpath("state.json").write_text(State(supervisor=me, api_url=url, ready=True).to_json())


def test_a_result_that_cannot_be_written_is_an_error_of_its_file(
    served: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_file(served / "x.wav")
    make_file(served / "y.wav")
    real = outputs._write

    def full(path: Path, chunks: object) -> None:
        monkeypatch.setattr(outputs, "_write", real)
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(outputs, "_write", full)
    ran = run("run", "x.wav", "y.wav", "--json")
    one, two = sorted(ran.document["jobs"], key=lambda job: not job["error"])
    assert ran.status == 1
    assert "No space left on device" in one["error"]["message"]
    assert (one["state"], one["files"]) == ("failed", {})
    assert two["files"]
    assert not [name for name in names_in(served / "omni-out") if name.startswith(".")]


def test_the_summary_counts_what_could_not_be_written_as_failed(
    served: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, chunks: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    make_file(served / "x.wav")
    monkeypatch.setattr(outputs, "_write", full)
    ran = run("run", "x.wav")
    assert (ran.status, ran.out) == (1, f"1 failed; 0 files in {served / 'omni-out'}\n")


def test_without_a_terminal_progress_is_plain_lines(api: FakeApi, served: Path) -> None:
    make_file(served / "talk.wav")
    api.scripts["talk.wav"] = [RUNNING] * 6 + [DONE]
    process = start("run", "talk.wav", "--json")
    out, err = process.communicate(timeout=20)
    lines = err.splitlines()
    assert process.returncode == 0, err
    assert "\x1b" not in err
    # At most one line within 2 s, and the last one always.
    assert len(lines) <= 3
    assert lines[-1].startswith("talk.wav: succeeded after 00:0")
    assert lines[-1].endswith("omni-out/talk.{result.json,txt,srt,vtt,md}")
    assert out.startswith("{")


def waiting_run(api: FakeApi, *words: str) -> "subprocess.Popen[str]":
    """A command that watches a job that does not end, and has seen it run: it has come to look again."""
    api.scripts["slow.wav"] = [RUNNING]
    process = start("run", "slow.wav", *words)
    deadline = time.monotonic() + 15
    while not any(looks > 1 for looks in api.looks.values()):
        assert time.monotonic() < deadline, process.communicate(timeout=1)
        time.sleep(0.02)
    return process


def test_ctrl_c_leaves_the_jobs_and_says_how_to_go_on(api: FakeApi, served: Path, run: Run) -> None:
    make_file(served / "slow.wav")
    process = waiting_run(api, "--json")
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    (job_id,) = api.jobs
    assert process.returncode == 130
    assert "these jobs go on" in err
    assert f"{job_id}  slow.wav" in err
    assert f"omni-jobs status {job_id}" in err
    assert "same command again" in err
    assert "Traceback" not in err
    assert api.jobs[job_id]["state"] == "running"
    # The same command goes on with that job.
    api.scripts["slow.wav"] = [DONE]
    assert run("run", "slow.wav", "--json").document["jobs"][0]["id"] == job_id


def test_ctrl_c_still_prints_one_document(api: FakeApi, served: Path) -> None:
    make_file(served / "slow.wav")
    process = waiting_run(api, "--json")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    (job,) = json.loads(out)["jobs"]
    assert (job["state"], job["files"]) == ("running", {})


def test_ctrl_c_while_the_stack_starts_prints_a_document(
    served: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: object) -> object:
        raise KeyboardInterrupt

    make_file(served / "x.wav")
    monkeypatch.setattr(reach, "reach", interrupted)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    ran = run("run", "x.wav", "--json")
    (job,) = ran.document["jobs"]
    assert (ran.status, job["id"], job["state"]) == (130, None, "failed")
    assert job["error"] == {
        "type": "internal", "message": "interrupted before it was submitted", "retryable": True
    }  # fmt: skip
    for words in (["list"], ["submit", "x.wav"]):
        ran = run(*words, "--json")
        assert (ran.status, ran.document["error"]["type"]) == (130, "interrupted")
        assert ran.err == "error: interrupted\n"


def test_a_mistake_cannot_steer_the_terminal(served: Path, run: Run) -> None:
    for word in ("\x1b[2J", "a\nerror: b"):
        ran = run("run", word)
        assert "\x1b" not in ran.err
        assert len(ran.err.splitlines()) == 1


def test_a_second_ctrl_c_ends_it_at_once(api: FakeApi, served: Path) -> None:
    make_file(served / "slow.wav")
    process = waiting_run(api)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, err = process.communicate(timeout=5)
    # By the signal itself, when the interpreter is already on its way out: a shell calls that 130 too.
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in err
