"""Children that die in the middle of a file of pages: the other pages are read all the same."""

from collections.abc import Iterator
from typing import Any

import pytest

from omni_jobs.errors import ErrorType, SourceError
from workers.inputs import CanonicalPage
from workers.media.paging import MOST_RESTARTS, PageFailure, read_pages
from workers.media.wire import Message


class Children:
    """Children that read `count` pages; `deaths` says of a page how often it kills its reader, and how."""

    def __init__(self, count: int, deaths: dict[int, list[SourceError]]) -> None:
        self.count, self.deaths, self.started = count, deaths, 0

    def start(self, left: list[int] | None) -> Iterator[Message]:
        self.started += 1
        yield Message("open", {"pages": self.count})
        for number in left or range(1, self.count + 1):
            yield Message("begin", {"page": number})
            if self.deaths.get(number):
                raise self.deaths[number].pop()
            yield Message("page", {"page": number})

    def told(self) -> list[Any]:
        """Numbers of pages; of those that failed as a text."""
        pages = read_pages(self.start, lambda count: list(range(1, count + 1)), made, 5)
        return [str(page.page) if isinstance(page, PageFailure) else page.page for page in pages]


def made(message: Message) -> CanonicalPage:
    return CanonicalPage(message.head["page"], 1, 1, 1, 1, 72, 0, b"")


def crash(*, retryable: bool = False) -> SourceError:
    return SourceError(ErrorType.CRASHED, "it died", retryable=retryable)


@pytest.mark.parametrize("page", [1, 2, 4])
def test_a_page_that_crashes_its_reader_fails_alone(page: int) -> None:
    children = Children(4, {page: [crash() for _ in range(9)]})
    assert children.told() == [str(number) if number == page else number for number in range(1, 5)]
    assert children.started == (1 if page == 4 else 2)


def test_a_reader_killed_from_outside_is_started_again_at_its_page() -> None:
    assert Children(4, {2: [crash(retryable=True)]}).told() == [1, 2, 3, 4]
    assert Children(4, {2: [crash(retryable=True) for _ in range(9)]}).told() == [1, "2", 3, 4]


def test_the_only_page_of_a_file_is_the_file() -> None:
    with pytest.raises(SourceError, match="it died"):
        Children(1, {1: [crash()]}).told()


def test_not_every_page_may_take_a_child() -> None:
    children = Children(50, {number: [crash()] for number in range(1, 51)})
    assert children.told() == [str(number) for number in range(1, 51)]
    assert children.started == MOST_RESTARTS
