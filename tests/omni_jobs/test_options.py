"""What a user may ask, what a row keeps of it, and who may read it."""

import pytest
from pydantic import ValidationError

from omni_jobs.options import Options


def test_a_row_keeps_only_what_differs_from_its_default() -> None:
    assert Options().storable() == {} == Options(dpi=150, word_times=True).storable()
    assert Options(dpi=200, pages="1-3").storable() == {"dpi": 200, "pages": "1-3"}


def test_a_row_of_another_version_is_read_without_what_this_one_does_not_know() -> None:
    found = Options.stored({"dpi": 200, "from_the_future": [1]})
    assert found == Options(dpi=200)
    with pytest.raises(ValidationError):
        Options.model_validate({"from_the_future": [1]})


def test_a_default_left_out_and_one_written_down_are_the_same_request() -> None:
    assert Options.stored({}).effective() == Options(dpi=150, start_s=0.0).effective() == Options().effective()
    assert Options.stored(Options(end_s=3.5).storable()).effective() == Options(end_s=3.5).effective()


@pytest.mark.parametrize("name", ["start_s", "end_s", "frames_per_s"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_number_without_an_end_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate({name: value})
