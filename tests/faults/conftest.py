"""The scale of the fault tests, and the table of what they counted."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.report import Report


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--scale"))


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Counts of this test, printed as a row of the table at the end."""
    made = Report(request.node.name)
    yield made
    made.seconds = time.monotonic() - made.started
    request.config.stash.setdefault(ROWS, []).append(made)


ROWS = pytest.StashKey[list[Report]]()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = terminalreporter.config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("faults")
        for one in rows:
            terminalreporter.write_line(one.line())
