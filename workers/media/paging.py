"""Reads a file of pages in children: a page that hangs, crashes or takes too much fails alone, a new child goes on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from omni_jobs.errors import ErrorType, Problem, SourceError
from workers.inputs import CanonicalPage
from workers.media.wire import Message

MOST_RESTARTS = 20


@dataclass(frozen=True, slots=True)
class PageFailure:
    """A page without an answer; with `partial`, the page came too and this says what is wrong with it."""

    page: int
    problem: Problem
    partial: bool = False


def read_pages(
    start: Callable[[list[int] | None], Iterator[Message]],
    asked: Callable[[int], list[int]],
    made: Callable[[Message], CanonicalPage],
    timeout_s: float,
) -> Iterator[CanonicalPage | PageFailure]:
    """Yield each page, or why there is none, in the order asked for.

    Args:
        start: begins a child on the pages that are left, None for all that are asked for.
        asked: the pages asked for, of so many.
        made: the page of a `page` message.
        timeout_s: how long a page may take, for the sentence.

    Raises:
        SourceError: the file as a whole, or its only page.
    """
    left: list[int] | None = None
    problem = Problem(ErrorType.INTERNAL, "")
    again: int | None = None  # the page at which a child was killed from outside
    for _ in range(MOST_RESTARTS):
        current, answered, alone = None, False, False
        try:
            for message in start(left):
                match message.kind:
                    case "open":
                        alone = message.head["pages"] == 1
                        left = asked(int(message.head["pages"])) if left is None else left
                    case "begin":
                        current, answered = int(message.head["page"]), False
                    case "page":
                        yield made(message)
                        answered = True
                    case "failure":
                        yield _failure(message.head)
                        answered = True
            return
        except SourceError as error:
            if current is None or left is None or alone:
                raise
            problem = _of_page(current, error.problem, timeout_s)
        left = left[left.index(current) :]
        if not answered and problem.retryable and again != current:
            again = current
            continue
        if not answered:
            yield PageFailure(current, problem)
        left = left[1:]
        if not left:
            return
    for number in left or ():
        yield PageFailure(number, Problem(problem.type, f"page {number} was not tried: too many others failed"))


def _failure(head: dict[str, Any]) -> PageFailure:
    problem = Problem(ErrorType(head["type"]), head["message"])
    return PageFailure(int(head["page"]), problem, partial=bool(head.get("partial")))


def _of_page(number: int, problem: Problem, timeout_s: float) -> Problem:
    words = {
        ErrorType.TIMEOUT: f"page {number} could not be read within {timeout_s:g} s",
        ErrorType.CRASHED: f"page {number} crashed its reader",
        ErrorType.TOO_LARGE: f"page {number} needs more memory than a page may take",
    }
    return Problem(problem.type, words.get(problem.type, problem.message), problem.retryable)
