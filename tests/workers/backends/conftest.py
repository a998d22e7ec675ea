"""Media made on the spot: sound that counts as speech where it is loud, a film of two shots, a report."""

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.workers.media.tiny import Writer
from workers import cutting, samples
from workers.backends.asking import spans

RATE_HZ, BLOCK = 16_000, 1600
LOUD = 500


def loud_spans(sound: NDArray[np.int16], **_: Any) -> list[tuple[float, float]]:
    """Where it is not silent, to a tenth of a second."""
    whole = sound[: len(sound) // BLOCK * BLOCK].reshape(-1, BLOCK)
    loud = np.abs(whole.astype(np.int32)).max(axis=1, initial=0) > LOUD
    edges = np.flatnonzero(np.diff(np.r_[False, loud, False])) * BLOCK / RATE_HZ
    return [(float(start_s), float(end_s)) for start_s, end_s in edges.reshape(-1, 2)]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that needs no voice."""
    for module in (cutting, spans):
        monkeypatch.setattr(module, "speech_spans", loud_spans)


@pytest.fixture
def talk(heard: None) -> NDArray[np.int16]:
    """Ten seconds of utterances, a pause of two, and the same once more."""
    once = _utterances(5)
    return np.concatenate([once, np.zeros(2 * RATE_HZ, np.int16), once])


def _utterances(count: int) -> NDArray[np.int16]:
    """Noise for 1.6 of each two seconds."""
    noise = np.random.default_rng(4).integers(-3000, 3000, (count, 2 * RATE_HZ)).astype(np.int16)
    noise[:, round(1.6 * RATE_HZ) :] = 0
    return noise.reshape(-1)


@pytest.fixture
def shelf(tmp_path: Path, heard: None) -> Path:
    """`talk.wav` of eight seconds, `film.mp4` of six, `report.pdf` of two pages."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with wave.open(str(shelf / "talk.wav"), "wb") as sound:
        sound.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        sound.writeframes(_utterances(4).tobytes())
    pictures = [np.full((48, 64, 3), shade, np.uint8) for shade in [40] * 30 + [220] * 30]
    for number, picture in enumerate(pictures):
        picture[number % 30 : number % 30 + 8, 8:24] = (200, 60, 60)
    film = Writer(shelf / "film.mp4", "mp4")
    film.video(film.add_video("libx264"), pictures)
    film.close()
    (shelf / "report.pdf").write_bytes(samples.report())
    return shelf
