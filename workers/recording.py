"""A whole recording, read piece by piece: the canonical sound of its spans, two of them in memory at a time."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from workers.inputs import RATE_HZ, CanonicalAudio


class Recording:
    """Samples by their index in the recording.

    Args:
        pieces: (where, start_s, end_s) of each span, contiguous and in order.
        load: the bytes that lie there.

    Attributes:
        start_s: where sample 0 lies in the source.
        length: samples.
    """

    def __init__(self, pieces: Sequence[tuple[str, float, float]], load: Callable[[str], bytes]) -> None:
        self.start_s = pieces[0][1]
        # As the spans were cut out of the decoded sound.
        self._firsts = [round((start_s - self.start_s) * RATE_HZ) for _, start_s, _ in pieces]
        self.length = round((pieces[-1][2] - self.start_s) * RATE_HZ)
        self._samples = lru_cache(maxsize=2)(lambda index: CanonicalAudio.from_bytes(load(pieces[index][0])).samples)

    def read(self, first: int, last: int) -> NDArray[np.float32]:
        """[last - first] float32 in -1..1; what no piece has is silence."""
        out = np.zeros(max(0, min(last, self.length) - first), np.float32)
        ends = [*self._firsts[1:], self.length]
        for index, (begin, end) in enumerate(zip(self._firsts, ends, strict=True)):
            if begin < last and end > first:
                low = max(first, begin)
                samples = self._samples(index)[low - begin : min(last, end) - begin]
                out[low - first : low - first + len(samples)] = samples.astype(np.float32) / 32768.0
        return out
