import pytest

from tests.workers.engine import parity

CHECKS = {check.what: check for check in parity.CHECKS}


@pytest.mark.parametrize("what", CHECKS)
def test_we_equal_the_published_implementation(what: str) -> None:
    assert CHECKS[what].run() <= CHECKS[what].tolerance
