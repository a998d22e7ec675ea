"""What the tests of several libraries listen to."""

import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def lj001(media: Path) -> NDArray[np.int16]:
    """LJ001-0001 at 16 kHz: ten seconds of a woman who reads."""
    with wave.open(str(media / "speech" / "lj_words" / "LJ001-0001.wav")) as sound:
        rate, data = sound.getframerate(), sound.readframes(sound.getnframes())
    samples = np.frombuffer(data, "<i2").astype(np.float64)
    at = np.arange(int(len(samples) * 16_000 / rate)) * rate / 16_000
    return np.interp(at, np.arange(len(samples)), samples).astype(np.int16)
