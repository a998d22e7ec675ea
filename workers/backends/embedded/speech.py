"""Speech to text: Whisper in CTranslate2, on windows that we cut ourselves.

Whisper hears 30 s at a time. A window begins and ends in a pause, and it is never glued together from pieces: both
cost words (measured over 18 minutes: 10.3 % word errors, 13.5 % with faster-whisper's own `vad_filter`). Who speaks
longer than that without a pause of 0.3 s is cut where it is quietest: in 37 stretches of read speech without a pause 8
such cuts fall inside a word, 29 in the middle of the stretch.
Decoding is greedy and holds one source, so the same samples give the same answer whatever came before.
What no detector took for speech is never shown to the model: it would make up words for it.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_jobs.errors import ErrorType, SourceError
from workers.answers import SpanAnswer, SpokenSegment, SpokenWord
from workers.backends.backend import Cancelled
from workers.inputs import RATE_HZ, CanonicalAudio
from workers.speech.activity import Span, joined, speech_spans, uncovered

WINDOW_S = 29.0  # room for the padding below Whisper's 30 s
PAD_S = 0.3
HUSH_S = 0.16  # without a pause a window ends in the quietest stretch of so long, in its second half
LEAST_S = 2.0  # of speech after such a cut
UTTERANCE_PAUSE_S = 0.6  # rung 1: a pause of so long ends an utterance
MISSED_S = 1.5  # speech of so long without a segment is asked again
DOUBTFUL_LOGPROB = -1.0
NO_SPEECH = 0.6
LOOP_RATIO = 2.4  # text that deflates so well repeats itself
ALIGNED = ("en",)  # languages whose words are aligned later (workers/speech/words.py)
SPACELESS = ("zh", "ja", "yue", "th", "lo", "my", "km", "bo")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one call asks, so that helpers need not carry it about."""

    waveform: NDArray[np.float32]
    language: str
    with_words: bool
    cancelled: Callable[[], bool]
    on_progress: Callable[[float], None]

    @property
    def duration_s(self) -> float:
        return len(self.waveform) / RATE_HZ


class Speech:
    """One loaded model. Calls may come from any thread; each is answered alone."""

    def __init__(self, weights: Path, threads: int) -> None:
        """Load the model.

        Args:
            weights: a folder as `weights.whisper_folder` gives it; names would go to a hub.
            threads: CPU threads of one call.
        """
        os.environ["HF_HUB_OFFLINE"] = "1"
        from faster_whisper import WhisperModel

        self._model: Any = WhisperModel(
            str(weights), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
        )
        self._threads = threads

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO codes the model knows; only `en` for an English-only model such as tiny.en."""
        return tuple(self._model.supported_languages)

    def transcribe(
        self,
        audio: CanonicalAudio,
        *,
        language: str,
        rung: int,
        cancelled: Callable[[], bool],
        on_progress: Callable[[float], None],
        aligned: Collection[str] = ALIGNED,
        ranges: Sequence[Span] = (),
    ) -> SpanAnswer:
        """What is said in one span.

        Args:
            language: ISO 639-1 code, or empty to detect it on the speech.
            rung: 0 packs windows of 30 s; from 1 on every utterance is asked alone.
            aligned: languages whose words get their times later; for others Whisper's own are taken (a tenth slower).
            ranges: look only here, in seconds of the source; empty: everywhere.

        Raises:
            SourceError: the model does not know the language.
            Cancelled: `cancelled` became true; it is asked before each segment.
        """
        self._check(language)
        spans = cut_long(_within(speech_spans(audio.samples, threads=1), ranges, audio.start_s), audio.samples)
        method = "spans" if rung == 0 else "utterances"
        if not spans:
            on_progress(1.0)
            return SpanAnswer(language="", method=method)
        waveform, confidence = audio.waveform, None
        if cancelled():
            raise Cancelled
        if not language:
            language, confidence = self._detect(waveform, spans)
        asked = _Asked(waveform, language, language not in aligned, cancelled, on_progress)
        found = self._hear(asked, windows(spans) if rung == 0 else utterances(spans))
        if rung == 0:
            found = self._hear_again(asked, found, spans)
        segments = [_shifted(segment, audio.start_s) for segment in found]
        on_progress(1.0)
        return SpanAnswer(
            language=language if segments else "",
            language_confidence=confidence if segments else None,
            segments=segments,
            method=method,
        )

    def _check(self, language: str) -> None:
        if language and language not in self.languages:
            known = "English only" if self.languages == ("en",) else f"{len(self.languages)} languages, not this one"
            raise SourceError(
                ErrorType.UNSUPPORTED, f"asked for speech in `{language}`, but the speech model knows {known}"
            )

    def _detect(self, waveform: NDArray[np.float32], spans: Sequence[Span]) -> tuple[str, float | None]:
        if self.languages == ("en",):
            return "en", None
        speech = np.concatenate([waveform[int(a * RATE_HZ) : int(b * RATE_HZ)] for a, b in spans])
        language, confidence, _ = self._model.detect_language(speech[: 60 * RATE_HZ], language_detection_segments=2)
        return language, round(float(confidence), 4)

    def _hear(self, asked: _Asked, clips: Sequence[Span]) -> list[SpokenSegment]:
        """Ask window by window and leave out what is doubtful: its speech then counts as missed."""
        heard = self._segments(asked, padded(clips, asked.duration_s))
        return [one.segment for one in heard if not doubtful(one.segment, one.compression)]

    def _hear_again(self, asked: _Asked, found: list[SpokenSegment], spans: Sequence[Span]) -> list[SpokenSegment]:
        """Ask again, utterance by utterance, for speech that got no segment."""
        missed = uncovered(spans, [(segment.start_s, segment.end_s) for segment in found], MISSED_S)
        if not missed:
            return found
        return merged(found, self._hear(asked, utterances(missed)))

    def _segments(self, asked: _Asked, clips: Sequence[Span]) -> Iterator["_Heard"]:
        pieces, _ = self._model.transcribe(
            asked.waveform,
            language=asked.language,
            beam_size=1,
            temperature=0.0,  # the fallback to sampling would make an answer depend on the one before
            condition_on_previous_text=False,
            word_timestamps=asked.with_words,
            clip_timestamps=[edge for clip in clips for edge in clip],
        )
        for piece in pieces:
            if asked.cancelled():
                raise Cancelled
            asked.on_progress(min(0.99, piece.end / max(asked.duration_s, 0.01)))
            yield _heard(piece, asked)


@dataclass(frozen=True, slots=True)
class _Heard:
    segment: SpokenSegment
    compression: float


def cut_long(spans: Sequence[Span], samples: NDArray[np.int16]) -> list[Span]:
    """Spans that fit a window; longer ones are cut where they are quietest."""
    out: list[Span] = []
    for start_s, end_s in spans:
        while end_s - start_s > WINDOW_S:
            at_s = _quietest(samples, start_s + WINDOW_S / 2, min(start_s + WINDOW_S, end_s - LEAST_S))
            out.append((start_s, at_s))
            start_s = at_s
        out.append((start_s, end_s))
    return out


def _quietest(samples: NDArray[np.int16], low_s: float, high_s: float) -> float:
    """The middle of the quietest stretch of `HUSH_S` between two times."""
    first, hush = round(low_s * RATE_HZ), round(HUSH_S * RATE_HZ)
    power = np.concatenate([[0.0], np.cumsum(samples[first : round(high_s * RATE_HZ)].astype(np.float64) ** 2)])
    if len(power) <= hush:
        return high_s
    return (first + int(np.argmin(power[hush:] - power[:-hush])) + hush / 2) / RATE_HZ


def windows(spans: Sequence[Span]) -> list[Span]:
    """Speech packed into windows of 30 s with the pauses inside left as they are."""
    return joined(spans, longest_s=WINDOW_S)


def utterances(spans: Sequence[Span]) -> list[Span]:
    """Speech cut at every longer pause: slower, but nothing can be skipped beside something louder."""
    return joined(spans, longest_s=WINDOW_S, pause_s=UTTERANCE_PAUSE_S)


def padded(clips: Sequence[Span], duration_s: float) -> list[Span]:
    """Each clip with up to 0.3 s around it, at most half of the pause to its neighbour."""
    out: list[Span] = []
    for index, (start_s, end_s) in enumerate(clips):
        before_s = start_s - (clips[index - 1][1] if index else 0.0)
        after_s = (clips[index + 1][0] if index + 1 < len(clips) else duration_s) - end_s
        left_s = min(PAD_S, max(0.0, before_s / 2 if index else before_s))
        right_s = min(PAD_S, max(0.0, after_s / 2 if index + 1 < len(clips) else after_s))
        out.append((start_s - left_s, end_s + right_s))
    return out


def doubtful(segment: SpokenSegment, compression: float) -> bool:
    """Invented text, told by its signals alone: nobody seems to speak and the words are unlikely, or it loops."""
    logprob = float(np.log(max(segment.confidence or 0.0, 1e-9)))
    unlikely = logprob < DOUBTFUL_LOGPROB and (segment.no_speech or 0.0) > NO_SPEECH
    return unlikely or compression > LOOP_RATIO or looping(segment.text)


def looping(text: str) -> bool:
    """The same one to eight words five times in a row."""
    return re.search(r"(\b\w+(?:\W+\w+){0,7}?)(?:\W+\1\b){4,}", text.lower()) is not None


def merged(found: Iterable[SpokenSegment], more: Iterable[SpokenSegment]) -> list[SpokenSegment]:
    """Both in order of time; of `more` only what lies mostly where `found` has nothing."""
    kept = sorted(found, key=lambda segment: segment.start_s)
    taken = [(segment.start_s, segment.end_s) for segment in kept]
    for segment in more:
        overlap_s = sum(max(0.0, min(segment.end_s, end) - max(segment.start_s, start)) for start, end in taken)
        if overlap_s <= (segment.end_s - segment.start_s) / 2:
            kept.append(segment)
    return sorted(kept, key=lambda segment: segment.start_s)


def _within(spans: Sequence[Span], ranges: Sequence[Span], start_s: float) -> list[Span]:
    if not ranges:
        return list(spans)
    cut = [(max(a, low - start_s), min(b, high - start_s)) for a, b in spans for low, high in ranges]
    return sorted((a, b) for a, b in cut if b > a)


def _heard(piece: Any, asked: _Asked) -> _Heard:
    start_s = min(max(0.0, float(piece.start)), asked.duration_s)
    end_s = min(max(start_s, float(piece.end)), asked.duration_s)
    segment = SpokenSegment(
        start_s=round(start_s, 3),
        end_s=round(end_s, 3),
        text=piece.text.strip(),
        confidence=round(float(np.exp(piece.avg_logprob)), 4),
        no_speech=round(float(piece.no_speech_prob), 4),
        words=words_of(piece.words or (), asked.language, end_s),
    )
    return _Heard(segment, float(piece.compression_ratio))


def words_of(pieces: Iterable[Any], language: str, end_s: float) -> list[SpokenWord]:
    """Whisper's pieces as words between spaces; in languages written without spaces each piece is a word."""
    words: list[SpokenWord] = []
    for piece in pieces:
        text, first_s, last_s = piece.word.strip(), float(piece.start), float(piece.end)
        if not text:
            continue
        glued = words and not piece.word.startswith(" ") and language not in SPACELESS
        if glued:
            before = words.pop()
            text, first_s = before.text + text, before.start_s
        first_s = max(first_s, words[-1].start_s if words else 0.0)
        words.append(
            SpokenWord(
                text=text,
                start_s=round(min(first_s, end_s), 3),
                end_s=round(min(max(first_s, last_s), end_s), 3),
                confidence=round(float(piece.probability), 4),
                method="whisper",
            )
        )
    return words


def _shifted(segment: SpokenSegment, by_s: float) -> SpokenSegment:
    if not by_s:
        return segment
    words = [
        word.model_copy(update={"start_s": round(word.start_s + by_s, 3), "end_s": round(word.end_s + by_s, 3)})
        for word in segment.words
    ]
    times = {"start_s": round(segment.start_s + by_s, 3), "end_s": round(segment.end_s + by_s, 3)}
    return segment.model_copy(update={**times, "words": words})
