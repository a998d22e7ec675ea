"""How the words of a segment stand in its text: with which spaces, and where to cut it."""

from collections.abc import Sequence
from itertools import pairwise

from omni_jobs.result import Segment, Word


def offsets(text: str, words: Sequence[Word]) -> list[int] | None:
    """Where each word begins in the text; None when they are not its words one after the other."""
    found: list[int] = []
    at = 0
    for word in words:
        begin = text.find(word.text.strip(), at)
        if begin < 0 or text[at:begin].strip():
            return None
        found.append(begin)
        at = begin + len(word.text.strip())
    return found


def spaced(text: str, words: Sequence[Word]) -> list[bool]:
    """For each word, whether a space stands before it."""
    begins = offsets(text, words)
    if begins is None:
        # Chinese and Japanese put none; a text with no space at all is taken for such.
        between = len(words) < 2 or any(letter.isspace() for letter in text.strip())
        return [False, *[between] * (len(words) - 1)][: len(words)]
    return [begin > 0 and text[begin - 1].isspace() for begin in begins]


def spell(text: str, words: Sequence[Word], kept: Sequence[Word]) -> str:
    """The text of some words of a segment; `kept` are members of `words`, in order."""
    if len(kept) == len(words):
        return text
    gaps = dict(zip(map(id, words), spaced(text, words), strict=True))
    return "".join((" " if gaps[id(word)] else "") + word.text.strip() for word in kept).strip()


def cut(segment: Segment, indices: Sequence[int]) -> list[Segment]:
    """The segment in pieces that begin at its start and before the words of these indices."""
    edges = sorted({0, *(index for index in indices if 0 < index < len(segment.words)), len(segment.words)})
    if len(edges) < 3:
        return [segment]
    return [part(segment, segment.words[low:high]) for low, high in pairwise(edges)]


def part(segment: Segment, kept: Sequence[Word]) -> Segment:
    """The segment with only these of its words, in the bounds of these words."""
    return segment.model_copy(
        update={
            "text": spell(segment.text, segment.words, kept),
            "words": list(kept),
            "start_s": kept[0].start_s,
            "end_s": max(word.end_s for word in kept),
        }
    )
