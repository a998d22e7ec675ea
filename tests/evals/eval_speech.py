"""How well speech is heard and words are timed, on real recordings with known text.

Takes the way of a job: detector, cuts in silences, Whisper span by span, alignment. Prints error rates by set,
word-time errors against forced alignments of MFA (automatic, not hand labels), and for the built hour also cost.
"""

import argparse
import json
import multiprocessing
import platform
import re
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import jiwer
import numpy as np
from numpy.typing import NDArray

from workers.answers import SpanAnswer, SpokenWord, WordsAnswer
from workers.backends.embedded.weights import default_cache, whisper_folder
from workers.inputs import RATE_HZ, CanonicalAudio
from workers.media.cuts import spans
from workers.speech.activity import speech_spans

CLEAN = ("lj", "austen", "sonnet", "jfk")
# LibriSpeech's own harder half (test-other), read by many voices in many rooms.
OTHER = ("libri",)
LANGUAGES = ("de", "es", "fr", "it", "ja", "pt")
GAP_S = 0.5
NEAR_S = 1.0


@dataclass(frozen=True, slots=True)
class Cost:
    cpu_s: float
    rss_bytes: int


@dataclass(slots=True)
class Heard:
    """What our path made of one recording."""

    answers: list[SpanAnswer] = field(default_factory=list)
    words: list[SpokenWord] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    costs: dict[str, Cost] = field(default_factory=dict)
    wall_s: float = 0.0

    @property
    def text(self) -> str:
        return " ".join(segment.text for answer in self.answers for segment in answer.segments)


class Way:
    """Whisper in one process, alignment in another, as in the workers."""

    def __init__(self, whisper: str, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        folder = whisper_folder(whisper, default_cache())
        self._whisper = ProcessPoolExecutor(1, spawn, _load_speech, (folder, threads))
        self._align = ProcessPoolExecutor(1, spawn, _load_aligner)

    def hear(self, samples: NDArray[np.int16], language: str = "") -> Heard:
        began, cpu_s = time.perf_counter(), time.process_time()
        cut = spans(speech_spans(samples), len(samples) / RATE_HZ)
        found = Heard(costs={"detector": Cost(time.process_time() - cpu_s, _rss())})
        pieces = [CanonicalAudio(np.array(samples[int(a * RATE_HZ) : int(b * RATE_HZ)]), a) for a, b in cut]
        answers = [self._whisper.submit(_transcribe, piece, language) for piece in pieces]
        words = []
        for piece, answer in zip(pieces, answers, strict=True):
            got, cost = answer.result()
            found.answers.append(got)
            found.costs["whisper"] = _more(found.costs.get("whisper"), cost)
            words.append(self._align.submit(_aligned, piece, got))
        for future in words:
            aligned, cost = future.result()
            found.words += [word for segment in aligned.segments for word in segment]
            found.methods.append(aligned.method)
            found.costs["words"] = _more(found.costs.get("words"), cost)
        found.wall_s = time.perf_counter() - began
        return found


def _load_speech(folder: Path, threads: int) -> None:
    from workers.backends.embedded.speech import Speech

    globals()["_model"] = Speech(folder, threads)


def _load_aligner() -> None:
    from workers.speech.words import Aligner

    globals()["_model"] = Aligner()


def _transcribe(audio: CanonicalAudio, language: str) -> tuple[SpanAnswer, Cost]:
    cpu_s = time.process_time()
    model: Any = globals()["_model"]
    answer = model.transcribe(audio, language=language, rung=0, cancelled=lambda: False, on_progress=lambda done: None)
    return answer, Cost(time.process_time() - cpu_s, _rss())


def _aligned(audio: CanonicalAudio, answer: SpanAnswer) -> tuple[WordsAnswer, Cost]:
    cpu_s = time.process_time()
    model: Any = globals()["_model"]
    return model.align(audio, answer.segments, answer.language), Cost(time.process_time() - cpu_s, _rss())


def _more(before: Cost | None, cost: Cost) -> Cost:
    return Cost((before.cpu_s if before else 0.0) + cost.cpu_s, max(before.rss_bytes if before else 0, cost.rss_bytes))


def _rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def samples_of(file: Path) -> NDArray[np.int16]:
    with av.open(str(file)) as container:
        resampler = av.AudioResampler("s16", "mono", RATE_HZ)
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]])


def joined_with_gaps(pieces: list[NDArray[np.int16]]) -> NDArray[np.int16]:
    gap = np.zeros(int(GAP_S * RATE_HZ), np.int16)
    return np.concatenate([part for piece in pieces for part in (piece, gap)])


def normalized(text: str) -> str:
    from whisper_normalizer.english import EnglishTextNormalizer

    return str(EnglishTextNormalizer()(text))


def plain(text: str) -> list[str]:
    """Word by word, so that each keeps its time: lower case, letters, digits and inner apostrophes."""
    return re.findall(r"\w+(?:'\w+)*", text.lower().replace("’", "'"))


def matches(reference: list[str], found: list[str]) -> Iterator[tuple[int, int]]:
    if not reference or not found:
        return
    for chunk in jiwer.process_words(" ".join(reference), " ".join(found)).alignments[0]:
        if chunk.type == "equal":
            yield from zip(
                range(chunk.ref_start_idx, chunk.ref_end_idx),
                range(chunk.hyp_start_idx, chunk.hyp_end_idx),
                strict=True,
            )


def timed(words: list[SpokenWord]) -> list[tuple[str, float, float]]:
    return [(piece, word.start_s, word.end_s) for word in words for piece in plain(word.text)]


def eval_wer(media: Path, way: Way) -> dict[str, Any]:
    records = json.loads((media / "MANIFEST.json").read_text())["files"]
    speech = [r for r in records if r["file"].startswith("speech/") and r.get("text")]
    out: dict[str, Any] = {}
    for name in (*CLEAN, *OTHER):
        chosen = [r for r in speech if r["file"].split("/")[1].split(".")[0] == name and "_rvb" not in r["file"]]
        heard = way.hear(joined_with_gaps([samples_of(media / r["file"]) for r in chosen]), "en")
        score = jiwer.process_words(normalized(" ".join(r["text"] for r in chosen)), normalized(heard.text))
        errors = score.substitutions + score.deletions + score.insertions
        out[name] = {"clips": len(chosen), "words": errors_base(score), "errors": errors, "wer": round(score.wer, 4)}
        print(f"wer {name}: {score.wer:.2%} of {errors_base(score)} reference words, {len(chosen)} clips joined")
    for pool, names in (("clean read", CLEAN), ("all read", (*CLEAN, *OTHER))):
        words = sum(out[name]["words"] for name in names)
        out[pool] = {"words": words, "wer": round(sum(out[name]["errors"] for name in names) / words, 4)}
        print(f"wer {pool} speech ({', '.join(names)}): {out[pool]['wer']:.2%} of {words} reference words")
    for language in LANGUAGES:
        chosen = [r for r in speech if r.get("language") == language]
        answers = [way.hear(samples_of(media / r["file"])).answers[0] for r in chosen]
        detected = sum(answer.language == language for answer in answers)
        rate = jiwer.cer(
            [" ".join(plain(r["text"])) for r in chosen],
            [" ".join(plain(" ".join(s.text for s in answer.segments))) for answer in answers],
        )
        out[f"lang-{language}"] = {"clips": len(chosen), "detected": detected, "cer": round(float(rate), 4)}
        print(f"language {language}: {detected} of {len(chosen)} detected, character errors {rate:.1%}")
    return out


def errors_base(score: jiwer.WordOutput) -> int:
    return score.hits + score.substitutions + score.deletions


def textgrid(file: Path) -> list[tuple[str, float, float]]:
    words = file.read_text().split('name = "phones"')[0]
    found = re.findall(r'xmin = ([\d.]+)\s+xmax = ([\d.]+)\s+text = "([^"]*)"', words)
    return [(word, float(a), float(b)) for a, b, word in found if word not in ("", "sil", "sp", "spn")]


def eval_words(media: Path, way: Way) -> dict[str, Any]:
    pieces, truth, at_s = [], [], 0.0
    for file in sorted((media / "speech" / "lj_words").glob("*.wav")):
        pieces.append(samples_of(file))
        truth += [(word, a + at_s, b + at_s) for word, a, b in textgrid(file.with_suffix(".TextGrid"))]
        at_s += len(pieces[-1]) / RATE_HZ + int(GAP_S * RATE_HZ) / RATE_HZ
    out = {"lj_words": word_errors("lj_words", way.hear(joined_with_gaps(pieces), "en"), truth)}
    records = json.loads((media / "MANIFEST.json").read_text())["files"]
    # Not digits_dev.wav: Whisper writes its digits as numbers, so no word of the reference can match.
    record = next(r for r in records if r["file"] == "speech/words/acoustic_corpus.wav")
    given = [(w["word"], w["start"], w["end"]) for w in record["words"]]
    out["spontaneous"] = word_errors("spontaneous", way.hear(samples_of(media / record["file"]), "en"), given)
    return out


def word_errors(name: str, heard: Heard, truth: list[tuple[str, float, float]]) -> dict[str, Any]:
    reference, found = [(p, a, b) for word, a, b in truth for p in plain(word)], timed(heard.words)
    pairs = list(matches([w for w, _, _ in reference], [w for w, _, _ in found]))
    if not pairs:
        print(f"words {name}: none of {len(reference)} matched")
        return {"words": len(reference), "matched": 0.0}
    starts = np.array([found[j][1] - reference[i][1] for i, j in pairs]) * 1000
    ends = np.array([found[j][2] - reference[i][2] for i, j in pairs]) * 1000
    out: dict[str, Any] = {"words": len(reference), "matched": round(len(pairs) / len(reference), 4)}
    for edge, errors in (("start", starts), ("end", ends)):
        out |= {
            f"{edge}_ms_median": round(float(np.median(abs(errors))), 1),
            f"{edge}_ms_mean": round(float(abs(errors).mean()), 1),
            f"{edge}_ms_p95": round(float(np.quantile(abs(errors), 0.95)), 1),
            f"{edge}_ms_bias": round(float(np.median(errors)), 1),
        }
    print(f"words {name}: {out} {heard.methods}")
    return out


def eval_hour(media: Path, way: Way) -> dict[str, Any]:
    utterances = json.loads((media / "speech" / "hour.json").read_text())["utterances"]
    samples = samples_of(media / "speech" / "hour.opus")
    heard = way.hear(samples)
    cpu_s = sum(cost.cpu_s for cost in heard.costs.values())
    out = score_hour(utterances, heard.text, timed(heard.words)) | {
        "spans": len(heard.answers),
        "methods": sorted(set(heard.methods)),
        "languages": sorted({answer.language for answer in heard.answers}),
        "cpu_s": {part: round(cost.cpu_s, 1) for part, cost in heard.costs.items()} | {"all": round(cpu_s, 1)},
        "rss_mib": {part: cost.rss_bytes >> 20 for part, cost in heard.costs.items()},
        "wall_s": round(heard.wall_s, 1),
        "x_real_time_cpu": round(len(samples) / RATE_HZ / cpu_s, 1),
    }
    print(f"hour: {json.dumps(out, indent=1)}")
    return out


def score_hour(utterances: list[dict[str, Any]], text: str, found: list[tuple[str, float, float]]) -> dict[str, Any]:
    """Word errors, and the utterances of which at least half of the words stand within a second of their place."""
    score = jiwer.process_words(normalized(" ".join(u["text"] for u in utterances)), normalized(text))
    reference = [(word, index) for index, u in enumerate(utterances) for word in plain(u["text"])]
    near, total = np.zeros(len(utterances)), np.zeros(len(utterances))
    for _, index in reference:
        total[index] += 1
    for i, j in matches([w for w, _ in reference], [w for w, _, _ in found]):
        utterance = utterances[reference[i][1]]
        if utterance["start"] - NEAR_S <= found[j][1] and found[j][2] <= utterance["end"] + NEAR_S:
            near[reference[i][1]] += 1
    missed = [utterances[i] for i in np.flatnonzero(near < total / 2)]
    return {
        "words": errors_base(score),
        "wer": round(score.wer, 4),
        "deletions": score.deletions,
        "insertions": score.insertions,
        "utterances": len(utterances),
        "found": len(utterances) - len(missed),
        "missed": [{"start": u["start"], "gain_db": u["gain_db"], "text": u["text"][:60]} for u in missed],
    }


def machine() -> str:
    load = Path("/proc/loadavg").read_text().split()[0]
    model = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ": ?")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    cores = multiprocessing.cpu_count()
    return f"{model.split(': ')[1]}, {cores} cores, load {load}, Python {platform.python_version()}, commit {commit}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  python -m tests.evals.eval_speech --media ../shared/media --what words\n"
        "  python -m tests.evals.eval_speech --media ../shared/media --what hour --json hour.json",
    )
    parser.add_argument("--media", type=Path, default=Path("../shared/media"))
    parser.add_argument("--what", choices=["wer", "words", "hour", "all"], default="all")
    parser.add_argument("--whisper", default="base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine())
    way = Way(args.whisper, args.threads)
    evals = {"wer": eval_wer, "words": eval_words, "hour": eval_hour}
    chosen = list(evals) if args.what == "all" else [args.what]
    found = {"machine": machine(), "whisper": args.whisper} | {name: evals[name](args.media, way) for name in chosen}
    if args.json:
        args.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
