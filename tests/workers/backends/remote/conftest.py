"""A recorded server, and backends that ask it."""

import io
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from omni_jobs.settings import Settings
from tests.workers.backends.remote.recorded import MODEL, RecordedServer, recorded
from workers.backends.remote import Remote, servers
from workers.inputs import CanonicalClip, CanonicalPage, Frame, PageWord, Shot, Sound

Make = Callable[..., Remote]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that failed rest for a moment only."""
    monkeypatch.setattr(servers, "FIRST_REST_S", 0.02)


@pytest.fixture
def server() -> Iterator[RecordedServer]:
    with recorded() as one:
        yield one


@pytest.fixture
def remote(server: RecordedServer, tmp_path: Path) -> Iterator[Make]:
    """Makes backends that ask `server`, or the URLs that are named."""
    made: list[Remote] = []

    def make(*urls: str, **settings: Any) -> Remote:
        settings = {"remote_model": MODEL, "remote_timeout_s": 20.0, "home": tmp_path, **settings}
        made.append(Remote(Settings(backend="remote", remote_urls=urls or (server.url,), **settings)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def jpeg(width: int = 96, height: int = 64, *, text: str = "", shade: int = 90) -> bytes:
    image = Image.new("RGB", (width, height), (shade, shade, shade))
    if text:
        ImageDraw.Draw(image).text((10, 10), f"{text * 12}\n" * 9, fill=(255, 255, 255), font_size=24)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def clip(*lengths_s: float, start_s: float = 100.0, frames_per_s: float = 1.0) -> CanonicalClip:
    """Shots of these lengths, each in a grey of its own."""
    edges = [start_s, *(start_s + sum(lengths_s[: k + 1]) for k in range(len(lengths_s)))]
    shots = tuple(Shot(a, b) for a, b in pairwise(edges))
    count = int((edges[-1] - start_s) * frames_per_s)
    times = [start_s + (k + 0.5) / frames_per_s for k in range(count)]
    shades = [30 + 40 * (sum(time_s >= shot.end_s for shot in shots) % 5) for time_s in times]
    frames = tuple(Frame(time_s, jpeg(shade=shade)) for time_s, shade in zip(times, shades, strict=True))
    sounds = tuple(Sound(shot.start_s, shot.end_s, 1.0, -20.0) for shot in shots)
    return CanonicalClip(start_s, edges[-1], 96, 64, shots, frames, sounds)


def page(*words: str, picture: bool = True, text: str = "x") -> CanonicalPage:
    """A page whose words stand in a row, 50 points each."""
    placed = tuple(
        PageWord(10 + 50 * k, 20 + 30 * (k // 8), 50 + 50 * k, 32 + 30 * (k // 8), word, 0, k // 8)
        for k, word in enumerate(words)
    )
    image = jpeg(620, 877, text=text) if picture else b""
    return CanonicalPage(3, 595.0, 842.0, 620, 877, 75.0, 0, image, placed)
