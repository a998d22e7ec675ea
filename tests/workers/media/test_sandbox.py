"""The child's limits: cancel, time, memory, death, and what it cannot reach."""

import os
import resource
import signal
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import psutil
import pytest

from omni_jobs.errors import ErrorType, SourceError
from workers.media import audio, image, video
from workers.media.sandbox import Limits, SandboxCancelled, run

Opened = Callable[[Path], BinaryIO]


@pytest.fixture(scope="module")
def long_sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty minutes of noise, a file that takes seconds to decode."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    minute = np.random.default_rng(0).integers(-3000, 3000, 48_000 * 60, np.int16).tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        for _ in range(20):
            file.writeframesraw(minute)
    return path


def children() -> list[psutil.Process]:
    """Decoders only: this process may also run servers for other tests."""
    return [child for child in psutil.Process().children() if decodes(child)]


def decodes(process: psutil.Process) -> bool:
    try:
        return "workers.media.child" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def wait_for_child() -> psutil.Process:
    for _ in range(400):
        if found := children():
            return found[0]
        time.sleep(0.005)
    raise AssertionError("no child was started")


def in_thread(action: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, errors


@pytest.mark.parametrize("after_s", [0.0, 0.6])
def test_cancel_kills_the_child_at_once(
    after_s: float, long_sound: Path, opened: Opened, limits: Limits, tmp_path: Path
) -> None:
    cancel = threading.Event()
    source = opened(long_sound)
    thread, errors = in_thread(lambda: audio.decode(source, limits, tmp_path, cancel=cancel))
    child = wait_for_child()
    time.sleep(after_s)
    cancel.set()
    begun = time.monotonic()
    thread.join(5)
    assert time.monotonic() - begun < 0.5
    assert [type(error) for error in errors] == [SandboxCancelled]
    assert not child.is_running()


@pytest.mark.parametrize(("number", "retryable"), [(signal.SIGKILL, True), (signal.SIGSEGV, False)])
def test_a_child_that_dies_of_a_signal_is_a_crash_with_its_name(
    number: signal.Signals, retryable: bool, long_sound: Path, opened: Opened, limits: Limits, tmp_path: Path
) -> None:
    """SIGKILL comes from outside (out of memory), so it may be tried again; the others are the decoder's own."""
    source = opened(long_sound)
    thread, errors = in_thread(lambda: audio.decode(source, limits, tmp_path))
    os.kill(wait_for_child().pid, number)
    thread.join(5)
    (error,) = errors
    assert isinstance(error, SourceError)
    assert (error.type, error.problem.retryable) == (ErrorType.CRASHED, retryable)
    assert number.name in str(error)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_child_that_is_told_to_end_is_cancelled_and_its_source_not_refused(
    number: signal.Signals, long_sound: Path, opened: Opened, limits: Limits, tmp_path: Path
) -> None:
    source = opened(long_sound)
    thread, errors = in_thread(lambda: audio.decode(source, limits, tmp_path))
    child = wait_for_child()
    time.sleep(0.6)  # its interpreter has started
    os.kill(child.pid, number)
    thread.join(5)
    assert [type(error) for error in errors] == [SandboxCancelled]


def test_a_dead_child_keeps_its_number_until_its_group_is_killed(
    long_sound: Path, opened: Opened, limits: Limits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once reaped, the number may be another process's."""
    killed: list[bool] = []
    killpg = os.killpg

    def seen(pid: int, number: int) -> None:
        killed.append(Path(f"/proc/{pid}").exists())
        killpg(pid, number)

    monkeypatch.setattr(os, "killpg", seen)
    source = opened(long_sound)
    thread, errors = in_thread(lambda: audio.decode(source, limits, tmp_path))
    os.kill(wait_for_child().pid, signal.SIGKILL)
    thread.join(5)
    assert len(errors) == 1
    assert killed == [True]


def test_time_is_limited(long_sound: Path, opened: Opened, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"within 0\.3 s") as caught:
        audio.decode(opened(long_sound), Limits(timeout_s=0.3), tmp_path)
    assert caught.value.type == ErrorType.TIMEOUT
    assert not children()


def test_time_the_consumer_takes_is_not_counted(make_video: Callable[..., Path], opened: Opened) -> None:
    frames = video.frames(opened(make_video("mp4", "libx264", 60)), Limits(timeout_s=2), [0.0, 2.0, 4.0])
    next(frames)
    time.sleep(2.2)
    assert len(list(frames)) == 2


def test_memory_is_limited(tmp_path: Path, opened: Opened) -> None:
    from PIL import Image

    path = tmp_path / "wide.png"
    Image.new("RGB", (9000, 9000)).save(path, compress_level=1)
    with pytest.raises(SourceError, match="memory") as caught:
        list(image.page(opened(path), Limits(memory_bytes=400 << 20)))
    assert caught.value.type == ErrorType.TOO_LARGE


def test_a_child_that_could_not_even_start_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 384 MiB"):
        Limits(memory_bytes=64 << 20)


def test_an_abandoned_iterator_leaves_no_child(make_video: Callable[..., Path], opened: Opened, limits: Limits) -> None:
    frames = video.frames(opened(make_video()), limits, [0.0, 1.0])
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert not children()


def test_the_sources_own_position_and_descriptor_stay(
    make_sound: Callable[..., Path], opened: Opened, limits: Limits, tmp_path: Path
) -> None:
    source = opened(make_sound())
    source.seek(7)
    audio.decode(source, limits, tmp_path)
    assert source.tell() == 7
    assert not source.closed


def test_the_parents_memory_stays_flat(long_sound: Path, opened: Opened, limits: Limits, tmp_path: Path) -> None:
    source = opened(long_sound)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = audio.decode(source, limits, tmp_path)
    assert found.duration_s == pytest.approx(1200)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 << 10  # of 38 MB of samples


def test_the_child_can_open_nothing(long_sound: Path, opened: Opened, limits: Limits) -> None:
    """Its limits, read from outside while it waits for us to take its messages."""
    messages = run("audio", opened(long_sound), {"start_s": 0, "end_s": None}, limits)
    next(messages)
    child = wait_for_child()
    limits_of = Path(f"/proc/{child.pid}/limits").read_text()
    environment = Path(f"/proc/{child.pid}/environ").read_bytes()
    highest = max(int(argument) for argument in child.cmdline() if argument.isdigit())
    messages.close()  # type: ignore[attr-defined]
    rows = {line[:25].strip(): line[25:].split()[:2] for line in limits_of.splitlines()[1:]}
    assert rows["Max open files"] == [str(highest + 1)] * 2
    assert rows["Max address space"] == [str(limits.memory_bytes)] * 2
    assert rows["Max file size"] == rows["Max core file size"] == ["0", "0"]
    assert b"OMNI_" not in environment
    assert b"HOME=" not in environment
