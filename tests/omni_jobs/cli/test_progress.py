"""What is said while jobs go on."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from omni_jobs.cli.progress import Lines, Table, place_of
from omni_jobs.cli.times import clock, seconds_of, size
from omni_jobs.errors import UsageError
from omni_jobs.moments import moment_of
from tests.omni_jobs.cli.fake_api import MEDIA_PROGRESS, RUNNING

PATH = Path("/x/talk.wav")


def job(**changes: object) -> dict[str, object]:
    return RUNNING | {"waiting": None, "progress": MEDIA_PROGRESS | changes}


def test_a_file_has_a_line_per_change_and_no_more_than_one_in_two_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    view = Lines(clock=lambda: now)
    for second in range(5):
        now = second * 1.0
        view.show(PATH, job(media_s_done=30.0 + second))
        view.show(Path("/x/other.wav"), job())
    view.end(PATH, "talk.wav: succeeded")
    said = capfd.readouterr().err.splitlines()
    assert [line for line in said if "talk" in line] == [
        "talk.wav: map 00:30/02:00 ETA 01:30",
        "talk.wav: map 00:32/02:00 ETA 01:30",
        "talk.wav: map 00:34/02:00 ETA 01:30",
        "talk.wav: succeeded",
    ]
    # No change, no line.
    assert sum("other" in line for line in said) == 1


def test_progress_is_media_pages_and_words() -> None:
    assert place_of(job(media_s_total=0, pages_total=10, pages_done=3, eta_s=None)) == "3/10 pages"
    words = job(media_s_done=120.0, words_s_total=120.0, words_s_done=60.0, eta_s=5)
    assert place_of(words) == "02:00/02:00 words 01:00/02:00 ETA 00:05"
    assert place_of(job() | {"waiting": "free disk"}) == "waits: free disk"


def test_a_terminal_gets_a_table(capfd: pytest.CaptureFixture[str]) -> None:
    with Table(20) as view:
        for n in range(20):
            view.show(Path(f"/x/[red]{n}.wav"), job())
        view.end(Path("/x/[red]0.wav"), "[red]0.wav: succeeded")
    said = capfd.readouterr()
    assert "[red]0.wav: succeeded" in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("1:30", 90), ("00:01:30.5", 90.5), ("10:00:00", 36000), ("90:00", 5400), ("0", 0)],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text, "--from") == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1:60", "1:60:00", "1:2:3:4", "nan", "1e3", "inf", "1" * 400, "٣"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--from: expected seconds or hh:mm:ss"):
        seconds_of(text, "--from")


NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("+2h", "2026-08-01T14:00:00+00:00"),
        ("+90m", "2026-08-01T13:30:00+00:00"),
        ("2026-08-02T00:00:00Z", "2026-08-02T00:00:00+00:00"),
        ("2026-08-02T00:00+02:00", "2026-08-01T22:00:00+00:00"),
    ],
)
def test_moments_are_read(text: str, moment: str) -> None:
    assert moment_of(text, "--deadline", NOW) == moment


@pytest.mark.parametrize("text", ["", "soon", "2h", "+2w", "+2", "-2h", "+" + "9" * 30 + "d", "2026-07-31", "+0s"])
def test_other_moments_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--deadline: expected a time "):
        moment_of(text, "--deadline", NOW)


def test_names_cannot_steer_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b]0;owned\x07\x1b[2J\nok: b\u202e\udcff.wav"
    for view in (Lines(), Table(2)):
        with view:
            view.show(Path(name), job())
            view.end(Path(name), f"{name}: failed")
    said = capfd.readouterr().err
    assert "owned" in said
    assert not set("\x1b\x07\u202e") & set(said)
    assert not [line for line in said.splitlines() if line.startswith("ok")]


def test_numbers_are_for_people() -> None:
    assert [clock(s) for s in (0, 59.9, 61, 3600)] == ["00:00", "00:59", "01:01", "1:00:00"]
    assert [size(n) for n in (0, 999, 1000, 2_500_000, 4e15)] == ["0 B", "999 B", "1.0 kB", "2.5 MB", "4000.0 TB"]
