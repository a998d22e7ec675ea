"""The scale of the fault tests, and the table of what they counted."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.report import Report


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> float:
    return float(str(request.config.getoption("--scale")))


@pytest.fixture
def report(request: pytest.FixtureRequest, scale: float) -> Iterator[Report]:
    """Counts of this test, printed as a row of the table at the end."""
    made = Report(request.node.name, quiet=scale >= 1 and not hasattr(request.config, "workerinput"))
    yield made
    made.seconds = time.monotonic() - made.started
    # It travels with the test's report, from whichever process ran it.
    request.node.user_properties.append(("faults", made.line()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    said = {
        line
        for reports in terminalreporter.stats.values()
        for one in reports
        for name, line in getattr(one, "user_properties", ())
        if name == "faults"
    }
    if said:
        terminalreporter.section("faults")
        for line in sorted(said):
            terminalreporter.write_line(line)
