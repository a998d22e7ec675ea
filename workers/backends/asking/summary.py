"""A summary in the model's own words, each sentence with the passages it rests on.

A sentence that names no passage is not taken: nobody could look it up. What is too long for one question is summed up
part by part, and then the sentences of the parts are, each with the places of its passages.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers import prompts
from workers.answers import ReduceAnswer, SummarySentence
from workers.backends.asking.work import Work
from workers.backends.backend import Unusable
from workers.backends.embedded.outline import how_many

LEAST_CHARACTERS = 200  # less is no text to sum up
MOST_CHARACTERS = 60_000  # of one question: about 15,000 tokens
LONGEST_PASSAGE = 2_000
MOST_LEVELS = 4


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of the source, and its place."""

    text: str
    start_s: float | None = None
    end_s: float | None = None
    page: int | None = None


async def summarise(work: Work, context: Mapping[str, Any]) -> ReduceAnswer:
    """Sum up the answers of a source.

    Raises:
        Unusable: no sentence of it names a passage.
    """
    passages = list(passages_of(context))
    if sum(len(one.text) for one in passages) < LEAST_CHARACTERS:
        return ReduceAnswer(method="none")
    wanted = how_many(len(passages))
    for _ in range(MOST_LEVELS):
        parts = parted(passages)
        work.expect(len(parts) + (len(parts) > 1))
        passages = [sentence for part in parts for sentence in await _ask(work, part, wanted)]
        if len(parts) == 1:
            break
    return ReduceAnswer(
        method="model",
        sentences=[
            SummarySentence(text=one.text, start_s=one.start_s, end_s=one.end_s, page=one.page) for one in passages
        ],
    )


async def _ask(work: Work, passages: Sequence[Passage], sentences: int) -> list[Passage]:
    texts = [passage.text for passage in passages]
    prompt = prompts.summarise(texts, sentences, again=work.again, reasoning_tokens=work.reasoning_tokens)
    said = await work.parsed(prompt)
    found: list[Passage] = []
    for sentence in said.sentences[:sentences]:
        named = [passages[number - 1] for number in sentence.passages if 1 <= number <= len(passages)]
        if named and (text := " ".join(sentence.text.split())):
            found.append(_resting_on(text, named))
    if not found:
        raise Unusable("evidence", f"none of its {len(said.sentences)} sentences names a passage of the source")
    return found


def _resting_on(text: str, passages: Sequence[Passage]) -> Passage:
    """A sentence with the place of its passages: all of their time, or else the first of their pages."""
    starts = [one.start_s for one in passages if one.start_s is not None]
    ends = [one.end_s for one in passages if one.end_s is not None]
    pages = [one.page for one in passages if one.page is not None]
    return Passage(text, min(starts, default=None), max(ends, default=None), min(pages, default=None))


def passages_of(context: Mapping[str, Any]) -> Iterator[Passage]:
    """Speech and shots in the order of time, then pages."""
    timed = [*context.get("segments", ()), *context.get("shots", ())]
    for one in sorted(timed, key=lambda one: one["start_s"]):
        for text in _pieces(one["text"]):
            yield Passage(text, one["start_s"], one["end_s"])
    for page in context.get("pages", ()):
        for text in _pieces(page["text"]):
            yield Passage(text, page=page["page"])


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces that fit; line ends become spaces, so that a passage is one line."""
    line: list[str] = []
    size = 0
    for word in text.split():
        if size and size + len(word) > LONGEST_PASSAGE:
            yield " ".join(line)
            line, size = [], 0
        line.append(word[:LONGEST_PASSAGE])
        size += len(word) + 1
    if line:
        yield " ".join(line)


def parted(passages: Sequence[Passage]) -> list[list[Passage]]:
    """Neighbours that fit into one question."""
    parts: list[list[Passage]] = [[]]
    room = MOST_CHARACTERS
    for passage in passages:
        room -= len(passage.text) + 8
        if room < 0 and parts[-1]:
            parts.append([])
            room = MOST_CHARACTERS - len(passage.text) - 8
        parts[-1].append(passage)
    return parts
