"""When each word is said: forced alignment of a transcript with the phonemes that hama hears.

A span is one path through the phonemes of its segments, each kept within a few seconds of where the transcript
put it, so memory stays small and errors stay local. Where the aligner cannot be trusted (another language, text
that does not belong to the sound), words keep Whisper's own times, or share those of their segment by length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from workers.answers import SpokenSegment, SpokenWord, WordsAnswer
from workers.inputs import CanonicalAudio
from workers.speech.path import best_path
from workers.speech.phonemes import FRAMES_PER_S, HOP, Phonemes
from workers.speech.spoken import spoken

LANGUAGES = ("en",)
START_BIAS_S, END_BIAS_S = -0.075, 0.035  # CTC peaks come late
SLACK_S = 3.0  # how far a word may lie outside of its segment
LEAST_CONFIDENCE = 0.5  # between the medians of right text (0.99) and of wrong text (0.20)
DENSEST_PER_S = 30.0  # phonemes; nobody speaks so fast, but looping text does


@dataclass(frozen=True, slots=True)
class _Token:
    segment: int
    text: str
    labels: tuple[int, ...]


class Aligner:
    """Loads its models at the first English span. Safe to call from several threads."""

    @cached_property
    def _phonemes(self) -> Phonemes:
        return Phonemes()

    def align(self, audio: CanonicalAudio, segments: Sequence[SpokenSegment], language: str) -> WordsAnswer:
        """Start and end of every word, in seconds of the source, grouped as `segments` are.

        The words are those of the text between spaces; their starts never go back and none leaves the span.
        """
        if language not in LANGUAGES:
            return kept(audio, segments, f"the aligner knows English only, not `{language}`")
        if not any(segment.text.split() for segment in segments):
            return WordsAnswer(method="alignment", confidence=None, segments=[[] for _ in segments])
        tokens = self._tokens(segments)
        times = self._times(audio, segments, tokens)
        if times is None:
            return kept(audio, segments, "the text has more sounds than fit into the recording")
        words = _words(tokens, times, audio)
        confidences = [word.confidence for word in words if word.confidence is not None]
        confidence = round(median(confidences), 4) if confidences else 0.0
        if confidence < LEAST_CONFIDENCE:
            reason = f"the text does not fit the sound: median confidence {confidence:.2f} of {LEAST_CONFIDENCE}"
            return kept(audio, segments, reason, confidence)
        grouped: list[list[SpokenWord]] = [[] for _ in segments]
        for token, word in zip(tokens, words, strict=True):
            grouped[token.segment].append(word)
        return WordsAnswer(method="alignment", confidence=confidence, segments=grouped)

    def _tokens(self, segments: Sequence[SpokenSegment]) -> list[_Token]:
        tokens: list[_Token] = []
        for index, segment in enumerate(segments):
            sounds = [tuple(chain.from_iterable(map(self._phonemes.of_word, spoken(t)))) for t in segment.text.split()]
            room = DENSEST_PER_S * (segment.end_s - segment.start_s + 1.0)
            too_dense = sum(map(len, sounds)) > room
            tokens += [
                _Token(index, text, () if too_dense else labels)
                for text, labels in zip(segment.text.split(), sounds, strict=True)
            ]
        return tokens

    def _times(
        self, audio: CanonicalAudio, segments: Sequence[SpokenSegment], tokens: list[_Token]
    ) -> list[tuple[float, float, float] | None] | None:
        """Start, end and confidence by token, None for one without a sound; None in all when there is no path."""
        labels = np.array(list(chain.from_iterable(token.labels for token in tokens)), np.int64)
        owner = np.repeat(np.arange(len(tokens)), [len(token.labels) for token in tokens])
        if not len(labels):
            return None
        reach_s = [(s.start_s - SLACK_S - audio.start_s, s.end_s + SLACK_S - audio.start_s) for s in segments]
        of_label = (np.array(reach_s) * FRAMES_PER_S).astype(np.int64)[[tokens[index].segment for index in owner]]
        heard = self._phonemes.heard(
            audio.waveform, regions(np.unique(of_label, axis=0), len(audio.samples) // HOP + 1)
        )
        path = best_path(heard, labels, self._phonemes.blank, of_label[:, 0], of_label[:, 1])
        if path is None:
            return None
        out: list[tuple[float, float, float] | None] = [None] * len(tokens)
        bounds = np.searchsorted(owner, np.arange(len(tokens) + 1))
        for index, (a, b) in enumerate(pairwise(int(bound) for bound in bounds)):
            if b > a:
                start_s, end_s = int(path.first[a]) / FRAMES_PER_S, int(path.last[b - 1] + 1) / FRAMES_PER_S
                out[index] = (start_s + START_BIAS_S, end_s + END_BIAS_S, float(path.probability[a:b].mean()))
        return out


def regions(edges: NDArray[np.int64], frames: int) -> list[tuple[int, int]]:
    """The frames that [N, 2] edges touch, as sorted ranges that do not meet."""
    out: list[tuple[int, int]] = []
    for first, last in sorted((max(0, int(a)), min(frames, int(b) + 1)) for a, b in edges):
        if out and first <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        elif last > first:
            out.append((first, last))
    return out


def kept(
    audio: CanonicalAudio, segments: Sequence[SpokenSegment], reason: str, confidence: float | None = None
) -> WordsAnswer:
    """Whisper's own times where every segment with text has them, else times shared by length."""
    if all(segment.words or not segment.text.strip() for segment in segments):
        confidences = [w.confidence for s in segments for w in s.words if w.confidence is not None]
        found = round(median(confidences), 4) if confidences else confidence
        return WordsAnswer(
            method="whisper", reason=reason, confidence=found, segments=[list(segment.words) for segment in segments]
        )
    low_s, high_s = audio.start_s, audio.start_s + audio.duration_s
    shared = [_shared(segment, low_s, high_s) for segment in segments]
    return WordsAnswer(method="estimated", reason=reason, confidence=confidence, segments=shared)


def _shared(segment: SpokenSegment, low_s: float, high_s: float) -> list[SpokenWord]:
    texts = segment.text.split()
    shares = np.cumsum([0, *(len(text) + 1 for text in texts)])
    start_s, end_s = (min(max(time_s, low_s), high_s) for time_s in (segment.start_s, segment.end_s))
    edges = (start_s + (end_s - start_s) * shares / max(1, shares[-1])).round(3).tolist()
    return [
        SpokenWord(text=text, start_s=a, end_s=b, method="estimated")
        for text, (a, b) in zip(texts, pairwise(edges), strict=True)
    ]


def _words(
    tokens: list[_Token], times: list[tuple[float, float, float] | None], audio: CanonicalAudio
) -> list[SpokenWord]:
    """Times made monotone and kept in the span; a token without a sound gets what lies between its neighbours."""
    starts = [time[0] if time else None for time in times]
    words: list[SpokenWord] = []
    at_s = 0.0
    following = _next_known(starts, audio.duration_s)
    for token, time, next_s in zip(tokens, times, following, strict=True):
        start_s, end_s, confidence = time or (_end_of(words, audio.start_s), next_s, None)
        start_s = min(max(at_s, start_s), audio.duration_s)
        end_s = max(start_s, min(end_s, audio.duration_s))
        if time is None:
            end_s = start_s if not any(c.isalnum() for c in token.text) else end_s
        elif next_s > start_s:
            end_s = min(end_s, next_s)
        words.append(
            SpokenWord(
                text=token.text,
                start_s=round(audio.start_s + start_s, 3),
                end_s=round(audio.start_s + end_s, 3),
                confidence=None if confidence is None else round(confidence, 4),
                method="alignment" if time else "estimated",
            )
        )
        at_s = start_s
    return words


def _end_of(words: list[SpokenWord], start_s: float) -> float:
    return words[-1].end_s - start_s if words else 0.0


def _next_known(starts: list[float | None], duration_s: float) -> list[float]:
    """For each token the start of the next one that has a sound."""
    out, at_s = [0.0] * len(starts), duration_s
    for index in range(len(starts) - 1, -1, -1):
        out[index] = at_s
        if (start_s := starts[index]) is not None:
            at_s = start_s
    return out
