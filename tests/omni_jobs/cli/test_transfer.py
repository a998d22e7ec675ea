"""What is said while weights come."""

import threading

import pytest

from omni_jobs.cli.transfer import LINE_EVERY_S, Bar, Lines, transfer


def test_a_line_every_few_seconds_and_one_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    shown = Lines(3_000_000, clock=lambda: now)
    for _ in range(10):
        shown.moved(200_000)
        now += LINE_EVERY_S / 4
    shown.moved(-500_000)
    shown.moved(1_500_000)
    assert capfd.readouterr().err.splitlines() == [
        "200.0 kB of 3.0 MB",
        "1.0 MB of 3.0 MB",
        "1.8 MB of 3.0 MB",
        "3.0 MB of 3.0 MB",
    ]


def test_several_threads_lose_no_byte(capfd: pytest.CaptureFixture[str]) -> None:
    with Bar(40_000) as shown:
        threads = [threading.Thread(target=lambda: [shown.moved(1) for _ in range(100)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert shown.done_bytes == 400


def test_without_a_terminal_it_is_lines(capfd: pytest.CaptureFixture[str]) -> None:
    assert isinstance(transfer(1), Lines)
