"""Stop texts, however the text is cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.stops import Stops
from workers.engine.tokenizer import Control

ABC = st.text("abc", max_size=12)


@given(ABC, st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 12), max_size=5))
def test_what_is_shown_is_the_text_before_the_first_stop(text: str, stops: list[str], cuts: list[int]) -> None:
    hits = [at for stop in stops if (at := text.find(stop)) >= 0]
    marks = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    watch = Stops(stops)
    shown = ""
    for start, end in pairwise(marks):
        if watch.found is None:
            shown += "".join(watch.push([text[start:end]]))
            assert text.startswith(shown)
            assert not any(stop in shown for stop in stops)
    if watch.found is None:
        shown += "".join(watch.finish())
        assert not hits
        assert shown == text
    else:
        assert text[len(shown) :].startswith(watch.found)


def test_the_beginning_of_a_stop_is_held_back_until_it_cannot_become_one() -> None:
    watch = Stops(["END."])
    assert watch.push(["the E"]) == ["the "]
    assert watch.push(["N"]) == []
    assert watch.push(["C"]) == ["E", "N", "C"]
    assert watch.push(["EEN"]) == ["E"]
    assert watch.finish() == ["EN"]
    assert watch.found is None


def test_the_earliest_stop_wins_and_of_two_that_begin_together_the_longer() -> None:
    watch = Stops(["b", "bc", "c"])
    assert watch.push(["abcd"]) == ["a"]
    assert watch.found == "bc"
    assert watch.push(["more"]) == []


def test_the_name_of_a_control_token_counts_as_text_and_is_never_cut() -> None:
    watch = Stops(["k>x"])
    think = Control("</think>")
    assert watch.push(["a", think]) == ["a"]
    shown = watch.push(["y"])
    assert shown == [think, "y"]
    assert isinstance(shown[0], Control)
    assert watch.push([think, "xz"]) == []
    assert watch.found == "k>x"


def test_without_stops_pieces_pass() -> None:
    assert Stops([]).push(["a", Control("<think>")]) == ["a", "<think>"]
