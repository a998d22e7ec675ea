"""Failpoints: off unless named, and never misspelt."""

import re
from pathlib import Path

import pytest

from omni_jobs import failpoints
from omni_jobs.failpoints import NAMES, Injected, arm, reach


@pytest.fixture(autouse=True)
def off() -> object:
    yield
    arm("")


def test_off_they_do_nothing() -> None:
    for name in NAMES:
        reach(name)


def test_they_raise_on_the_time_that_was_asked_for() -> None:
    arm("deliver.put@2=raise; claim.taken=sleep:0")
    reach("deliver.put")
    with pytest.raises(Injected, match=re.escape("deliver.put")):
        reach("deliver.put")
    reach("deliver.put")
    reach("claim.taken")


@pytest.mark.parametrize("text", ["deliver.putt=kill", "deliver.put", "deliver.put=explode"])
def test_what_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected NAME"):
        arm(text)


def test_every_name_stands_in_the_code_once_or_more() -> None:
    root = Path(failpoints.__file__).parents[1]
    code = "".join(path.read_text() for folder in ("omni_jobs", "workers") for path in (root / folder).rglob("*.py"))
    assert set(re.findall(r'reach\("([\w.]+)"\)', code)) == NAMES
