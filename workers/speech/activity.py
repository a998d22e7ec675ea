"""Where somebody speaks: the Silero detector streamed over samples that may be hours in a memory map.

Spans are cut for two readers: whoever cuts sound in silences (every pause of 0.3 s shows), and the coverage
rule (`uncovered`), which asks which heard speech has no word.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
FRAME = 512  # samples the detector judges at once: 32 ms
CONTEXT = 64  # samples of the frame before, which it wants in front
BLOCK_FRAMES = 2048  # frames per call: 65 s, about 5 MB of float32
SPEECH, QUIET = 0.5, 0.35  # probability at which speech begins, and below which it ends
PAUSE_S = 0.3  # shorter quiet does not end a span
SHORTEST_S = 0.15  # shorter speech is a click
PAD_S = 0.1  # added on both sides, within half of the pause
SILENCE_DBFS = -120.0

Span = tuple[float, float]


def speech_spans(
    samples: NDArray[np.int16], *, threads: int = 1, on_progress: Callable[[float], None] | None = None
) -> list[Span]:
    """Start and end of speech in seconds of `samples` ([N] int16 at 16 kHz, in memory or mapped), in order."""
    duration_s = len(samples) / RATE_HZ
    return _padded(list(_runs(speech_probabilities(samples, threads=threads, on_progress=on_progress))), duration_s)


def speech_probabilities(
    samples: NDArray[np.int16], *, threads: int = 1, on_progress: Callable[[float], None] | None = None
) -> Iterator[float]:
    """One probability per 32 ms; the last frame is filled up with zeros."""
    session = _session(threads)
    state, cell = np.zeros((1, 1, 128), np.float32), np.zeros((1, 1, 128), np.float32)
    before = np.zeros(CONTEXT, np.float32)
    for start in range(0, len(samples), BLOCK_FRAMES * FRAME):
        block = np.asarray(samples[start : start + BLOCK_FRAMES * FRAME]).astype(np.float32) / 32768.0
        frames = np.pad(block, (0, -len(block) % FRAME)).reshape(-1, FRAME)
        contexts = np.vstack([before, frames[:-1, -CONTEXT:]])
        before = frames[-1, -CONTEXT:]
        feeds = {"input": np.hstack([contexts, frames]), "h": state, "c": cell}
        found, state, cell = session.run(None, feeds)
        yield from found.ravel().tolist()
        if on_progress:
            on_progress(min(1.0, (start + len(block)) / len(samples)))


def level_dbfs(samples: NDArray[np.int16]) -> float:
    """RMS level in dB of full scale; -120 for digital silence or nothing at all."""
    step, power = BLOCK_FRAMES * FRAME, 0.0
    for start in range(0, len(samples), step):
        block = np.asarray(samples[start : start + step]).astype(np.float64)
        power += float(block @ block)
    if power == 0.0:
        return SILENCE_DBFS
    return max(SILENCE_DBFS, 10 * math.log10(power / len(samples) / 32768.0**2))


def uncovered(speech: Iterable[Span], words: Iterable[Span], at_least_s: float = 1.5) -> list[Span]:
    """The parts of `speech`, `at_least_s` long or longer, that no word touches; all times in the same seconds."""
    covered = sorted(words)
    left: list[Span] = []
    first = 0
    for start_s, end_s in sorted(speech):
        while first < len(covered) and covered[first][1] <= start_s:
            first += 1
        at_s = start_s
        for word_start_s, word_end_s in covered[first:]:
            if word_start_s >= end_s:
                break
            left.append((at_s, word_start_s))
            at_s = max(at_s, word_end_s)
        left.append((at_s, end_s))
    return [(start_s, end_s) for start_s, end_s in left if end_s - start_s >= at_least_s]


def joined(spans: Sequence[Span], *, longest_s: float, pause_s: float = math.inf) -> list[Span]:
    """Neighbours joined while they stay within `longest_s` and lie at most `pause_s` apart; too long ones are cut."""
    out: list[Span] = []
    for start_s, end_s in spans:
        if out and end_s - out[-1][0] <= longest_s and start_s - out[-1][1] <= pause_s:
            out[-1] = (out[-1][0], end_s)
            continue
        pieces = max(1, math.ceil((end_s - start_s) / longest_s))
        length_s = (end_s - start_s) / pieces
        out += [(start_s + length_s * i, start_s + length_s * (i + 1)) for i in range(pieces)]
    return out


def _runs(probabilities: Iterable[float]) -> Iterator[Span]:
    """Hysteresis: on at `SPEECH`, off once it stayed below `QUIET` for `PAUSE_S`."""
    step_s = FRAME / RATE_HZ
    start = quiet = -1
    index = -1
    for index, probability in enumerate(probabilities):
        if probability >= SPEECH:
            start, quiet = (index if start < 0 else start), -1
        elif start >= 0 and probability < QUIET:
            quiet = index if quiet < 0 else quiet
            if (index - quiet) * step_s >= PAUSE_S:
                yield start * step_s, quiet * step_s
                start = quiet = -1
    if start >= 0:
        yield start * step_s, (quiet if quiet >= 0 else index + 1) * step_s


def _padded(runs: list[Span], duration_s: float) -> list[Span]:
    runs = [(start_s, end_s) for start_s, end_s in runs if end_s - start_s >= SHORTEST_S]
    out: list[Span] = []
    for index, (start_s, end_s) in enumerate(runs):
        before_s = runs[index - 1][1] if index else -math.inf
        after_s = runs[index + 1][0] if index + 1 < len(runs) else math.inf
        out.append(
            (
                max(0.0, start_s - min(PAD_S, (start_s - before_s) / 2)),
                min(duration_s, end_s + min(PAD_S, (after_s - end_s) / 2)),
            )
        )
    return out


@lru_cache(maxsize=2)
def _session(threads: int) -> Any:
    import onnxruntime

    spec = find_spec("faster_whisper")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("speech detection needs the package faster-whisper: pip install 'omni-jobs[embedded]'")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    path = Path(spec.submodule_search_locations[0]) / "assets" / "silero_vad_v6.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
