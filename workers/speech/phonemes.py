"""hama: how a word sounds (letters to phonemes) and which phonemes a recording holds (log-probabilities by frame).

Two small models out of one package, on one CPU thread. The package drops what lies beyond 30 s of one call without
a word, so recordings are heard in overlapping windows.
"""

from functools import lru_cache
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
HOP = 320  # samples per frame: 20 ms
FRAMES_PER_S = RATE_HZ // HOP
WINDOW_FRAMES, OVERLAP_FRAMES = 10 * FRAMES_PER_S, FRAMES_PER_S  # attention makes longer windows dearer per second
SHORTEST = 640  # samples below which the model gives nothing
NEVER = -20.0


class Phonemes:
    """The loaded models. Safe to call from several threads, one at a time inside."""

    def __init__(self) -> None:
        from hama import ASRModel, G2PModel

        self._ears: Any = ASRModel()
        self._letters: Any = G2PModel()
        # The package rebuilds its tables of 13,000 letters for every letter: 38 ms a word against 5.
        table = _tables(self._letters.vocab)
        self._letters.vocab = self._letters.tokenizer.vocab = table
        self._ids = {phoneme: index for index, phoneme in enumerate(self._ears.decoder_tokens)}
        self._lock = Lock()
        self.blank: int = self._ears.blank_id
        self.of_word = lru_cache(maxsize=50_000)(self._of_word)

    def _of_word(self, word: str) -> tuple[int, ...]:
        """Label ids of one lower-case word; anything else (commas, digits) is read as another language."""
        with self._lock:
            found = self._letters.predict(word).alignments
        return tuple(self._ids[one.phoneme] for one in found if one.phoneme != " " and one.phoneme in self._ids)

    def heard(self, waveform: NDArray[np.float32], regions: list[tuple[int, int]]) -> NDArray[np.float32]:
        """[frames, labels] log-probabilities; outside of `regions` (frames, in order) all is blank."""
        out = np.full((len(waveform) // HOP + 1, len(self._ids)), NEVER, np.float32)
        out[:, self.blank] = 0.0
        for first, last in regions:
            self._hear(waveform, first, min(last, len(out)), out)
        return out

    def _hear(self, waveform: NDArray[np.float32], first: int, last: int, out: NDArray[np.float32]) -> None:
        at = first
        while True:
            piece = np.ascontiguousarray(waveform[at * HOP : min(at + WINDOW_FRAMES, last) * HOP], np.float32)
            if len(piece) < SHORTEST:
                return
            with self._lock:
                found, lengths = self._ears.session.run(
                    ["log_probs", "out_lengths"], {"waveform": piece[None], "waveform_lengths": np.array([len(piece)])}
                )
            frames = found[0][: int(lengths[0])][: len(out) - at]
            skipped = OVERLAP_FRAMES // 2 if at > first else 0  # the middle of the overlap is where both hear best
            out[at + skipped : at + len(frames)] = frames[skipped:]
            if at + WINDOW_FRAMES >= last:
                return
            at += WINDOW_FRAMES - OVERLAP_FRAMES


def _tables(vocabulary: Any) -> SimpleNamespace:
    names = ("encoder", "decoder", "encoder_token_to_id", "decoder_token_to_id", "pad_id", "sos_id", "eos_id")
    return SimpleNamespace(**{name: getattr(vocabulary, name) for name in names})
