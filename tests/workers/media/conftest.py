"""Fixtures of the media tests; what makes the files is `tiny`."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.workers.media.tiny import Writer, plain_pictures, tone
from workers.media.sandbox import Limits


@pytest.fixture
def limits() -> Limits:
    return Limits(timeout_s=60)


@pytest.fixture
def opened() -> Iterator[Callable[[Path], BinaryIO]]:
    """Opens files and closes them after the test."""
    files: list[BinaryIO] = []

    def open_one(path: Path) -> BinaryIO:
        files.append(path.open("rb"))
        return files[-1]

    yield open_one
    for file in files:
        file.close()


@pytest.fixture
def make_sound(tmp_path: Path) -> Callable[..., Path]:
    def make(format: str = "wav", codec: str = "pcm_s16le", rate_hz: int = 16_000, layout: str = "mono") -> Path:
        path = tmp_path / f"sound.{format}"
        writer = Writer(path, format)
        stream = writer.add_sound(codec, rate_hz, layout)
        writer.sound(stream, tone(rate_hz, channels=stream.layout.nb_channels))
        writer.close()
        return path

    return make


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    def make(
        format: str = "mp4", codec: str = "libx264", count: int = 20, fps: int = 10, pts: list[int] | None = None
    ) -> Path:
        path = tmp_path / f"video.{format}"
        writer = Writer(path, format)
        stream = writer.add_video(codec, fps=fps)
        writer.video(stream, plain_pictures(count), pts)
        writer.close()
        return path

    return make
