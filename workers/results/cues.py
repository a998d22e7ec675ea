"""Cues: the words of a transcript cut into pieces that can be read while they are shown.

At most two lines of 42 characters and 7 seconds, cut where a sentence, a clause or a breath ends. A cue is shown from
its first word and at most `LINGER_MS` longer than its last one, so never over silence. Within these limits the cut with
the smallest cost is found by dynamic programming over each run of words without a long pause.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from omni_jobs.result import Segment, Transcript, Word
from workers.results.spelling import spaced
from workers.results.stretches import ms

LINE_LENGTH = 42
LONGEST_MS = 7000
SHORTEST_MS = 800
PAUSE_MS = 800
BREATH_MS = 300
LINGER_MS = 600
READING_RATE = 20  # characters a second
CUE_COST = 1.0  # so few are made

SENTENCE_ENDS = tuple(".?!…。！？")
CLAUSE_ENDS = tuple(",;:–—，、；：")
CLOSERS = "\"'”’»)]}」』）"


@dataclass(frozen=True, slots=True)
class Cue:
    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class _Token:
    """A word, or a piece of one that is longer than a line."""

    text: str
    start_ms: int
    end_ms: int
    spaced: bool
    speaker: str | None
    ends: str  # `sentence`, `clause` or nothing


def cues_of(transcript: Transcript) -> list[Cue]:
    """Cues in time order that do not overlap."""
    tokens = [token for segment in transcript.segments for token in _tokens(segment)]
    cues: list[Cue] = []
    for cue in (cue for run in _runs(tokens) for cue in run.cues()):
        # A word that the aligner gave no length is shown for an instant, rather than not at all.
        start_ms = max(cue.start_ms, cues[-1].end_ms) if cues else cue.start_ms
        cues.append(replace(cue, start_ms=start_ms, end_ms=max(cue.end_ms, start_ms + 1)))
    return cues


def _tokens(segment: Segment) -> Iterator[_Token]:
    words = segment.words or _estimated(segment)
    for word, space in zip(words, spaced(segment.text, words), strict=True):
        # The first word of a segment follows a word of another one.
        yield from _pieces(word, space or word is words[0], word.speaker or segment.speaker)


def _pieces(word: Word, space: bool, speaker: str | None) -> Iterator[_Token]:
    text = " ".join(word.text.split())
    count = -(-len(text) // LINE_LENGTH)
    start, length = ms(word.start_s), ms(word.end_s) - ms(word.start_s)
    for index in range(count):
        piece = text[index * LINE_LENGTH : (index + 1) * LINE_LENGTH]
        low, high = start + length * index // count, start + length * (index + 1) // count
        yield _Token(piece, low, high, space and index == 0, speaker, _ends(piece))


def _ends(text: str) -> str:
    bare = text.rstrip(CLOSERS)
    return "sentence" if bare.endswith(SENTENCE_ENDS) else "clause" if bare.endswith(CLAUSE_ENDS) else ""


def _estimated(segment: Segment) -> list[Word]:
    """Words of a segment that has none, each as long as its share of the letters."""
    texts = segment.text.split()
    letters = sum(map(len, texts))
    words: list[Word] = []
    at = 0
    for text in texts:
        start_s, end_s = (
            segment.start_s + (segment.end_s - segment.start_s) * edge / letters for edge in (at, at + len(text))
        )
        words.append(Word(text=text, start_s=start_s, end_s=end_s, method="estimated"))
        at += len(text)
    return words


def _runs(tokens: Sequence[_Token]) -> Iterator["_Run"]:
    """Words without a long pause or a change of speaker between them."""
    begin = 0
    for index, (before, token) in enumerate(pairwise(tokens), start=1):
        if token.start_ms - before.end_ms > PAUSE_MS or token.speaker != before.speaker:
            yield _Run(tokens[begin:index], token.start_ms)
            begin = index
    if tokens:
        yield _Run(tokens[begin:], None)


class _Run:
    """Words to be cut into cues; a cue is named by the indices of its first word and of the one after its last.

    Attributes:
        next_ms: when the next run begins.
        edges: letters and spaces before each word.
        sentences: sentence ends before each word.
        line: after each word, where the line that begins with it must end.
    """

    def __init__(self, tokens: Sequence[_Token], next_ms: int | None) -> None:
        self.tokens = tokens
        self.next_ms = next_ms
        self.edges = [0, *accumulate(len(token.text) + token.spaced for token in tokens)]
        self.sentences = [0, *accumulate(token.ends == "sentence" for token in tokens)]
        self.line = self._lines()

    def _lines(self) -> list[int]:
        ends: list[int] = []
        end = 0
        for start in range(len(self.tokens)):
            while end < len(self.tokens) and self._length(start, end + 1) <= LINE_LENGTH:
                end += 1
            ends.append(end)
        return [*ends, end]

    def cues(self) -> list[Cue]:
        """The cheapest cut: best[i] is the cost of the first i words, came[i] where their last cue begins."""
        best = [0.0]
        came = [0]
        first = 0
        for end in range(1, len(self.tokens) + 1):
            best.append(float("inf"))
            came.append(end - 1)
            while not self._fits(first, end):
                first += 1
            for start in range(first, end):
                # The longest come first: of the others most cost more before they are looked at.
                if best[start] + CUE_COST <= best[end] and (cost := best[start] + self._cost(start, end)) <= best[end]:
                    best[end], came[end] = cost, start
        cues: list[Cue] = []
        end = len(self.tokens)
        while end:
            cues.append(self._cue(came[end], end))
            end = came[end]
        return cues[::-1]

    def _fits(self, start: int, end: int) -> bool:
        """Whether these words make at most two lines and seconds enough; a single word always does."""
        if end - start == 1:
            return True
        if self.tokens[end - 1].end_ms - self.tokens[start].start_ms > LONGEST_MS:
            return False
        return end <= self.line[self.line[start]]

    def _length(self, start: int, end: int) -> int:
        return self.edges[end] - self.edges[start] - self.tokens[start].spaced

    def _splits(self, start: int, end: int) -> Iterator[int]:
        """Where the second of two lines may begin."""
        for index in range(min(end - 1, self.line[start]), start, -1):
            if self.line[index] < end:
                return
            yield index

    def _shown_until(self, start: int, end: int) -> int:
        """Long enough to be read, but not into the next cue, nor long into silence."""
        first_ms, last_ms = self.tokens[start].start_ms, self.tokens[end - 1].end_ms
        wanted_ms = max(last_ms, first_ms + SHORTEST_MS, first_ms + self._length(start, end) * 1000 // READING_RATE)
        until_ms = min(wanted_ms, last_ms + LINGER_MS, first_ms + LONGEST_MS)
        next_ms = self.tokens[end].start_ms if end < len(self.tokens) else self.next_ms
        return until_ms if next_ms is None else min(until_ms, next_ms)

    def _cost(self, start: int, end: int) -> float:
        """How much worse than none this cue is: few cues, whole sentences, time to read them."""
        last = self.tokens[end - 1]
        cost = CUE_COST + 1.5 * (self.sentences[end - 1] - self.sentences[start])
        if end < len(self.tokens) and last.ends != "sentence":
            breath_ms = self.tokens[end].start_ms - last.end_ms
            cost += 0.7 if last.ends else 1.0 if breath_ms >= BREATH_MS else 3.0
        shown_ms = self._shown_until(start, end) - self.tokens[start].start_ms
        cost += 2.0 * max(0, SHORTEST_MS - shown_ms) / SHORTEST_MS
        return cost + max(0.0, self._length(start, end) * 1000 / max(shown_ms, 1) - READING_RATE) / 10

    def _cue(self, start: int, end: int) -> Cue:
        first = self.tokens[start]
        lines = (self._text(start, end),)
        if len(lines[0]) > LINE_LENGTH:
            split = min(self._splits(start, end), key=lambda index: self._imbalance(start, index, end))
            lines = (self._text(start, split), self._text(split, end))
        return Cue(first.start_ms, self._shown_until(start, end), lines, first.speaker)

    def _imbalance(self, start: int, split: int, end: int) -> int:
        """Lines of like length are best, but for one that ends where a clause does some inequality is taken."""
        return abs(self._length(start, split) - self._length(split, end)) - (12 if self.tokens[split - 1].ends else 0)

    def _text(self, start: int, end: int) -> str:
        return "".join((" " if token.spaced else "") + token.text for token in self.tokens[start:end]).strip()
