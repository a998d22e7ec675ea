"""What models say around the JSON they were asked for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.backends.asking.reading import answer_of, has_reasoning, parse
from workers.backends.backend import Unusable
from workers.prompts import PageSaid, ShotsSaid, SummarySaid

SHOTS = '{"shots": [{"shot": 1, "caption": "A dog.", "on_screen": []}]}'


@pytest.mark.parametrize(
    ("content", "answer", "thought"),
    [
        ("Yes.", "Yes.", False),
        ("I wonder.\n</think>\n\nYes.", "Yes.", True),  # the template has opened it
        ("<think>I wonder.</think>Yes.", "Yes.", True),
        ("<think></think>Yes.", "Yes.", False),
        ("<think>a</think>b<think>c</think>Yes.", "Yes.", True),
        ("<think>I wonder, and have no time to", "", True),
        ("Yes.<|im_end|>\n", "Yes.", False),
        ("", "", False),
    ],
)
def test_what_was_thought_is_taken_out(content: str, answer: str, thought: bool) -> None:
    assert answer_of(content) == answer
    assert has_reasoning(content) is thought


@pytest.mark.parametrize(
    "text",
    [
        SHOTS,
        f"```json\n{SHOTS}\n```",
        f"Here you are:\n```\n{SHOTS}\n```\nAnything else?",
        f"Sure! {SHOTS} I hope {{this}} helps.",
        '[{"shot": "1", "caption": "A dog."}]',
        f'{{"thought": [1, 2]}}\n{SHOTS}',
        '{"shots": [{"shot": 1, "caption": "A dog.", "confidence": 0.9}], "note": "x"}',
    ],
)
def test_json_is_found_where_it_stands(text: str) -> None:
    (shot,) = parse(text, ShotsSaid).shots
    assert (shot.shot, shot.caption, shot.on_screen) == (1, "A dog.", [])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("I cannot see a video.", "no JSON"),
        (SHOTS[:-4], "expected JSON as asked for"),
        ('{"shots": [{"shot": "one", "caption": "x"}]}', "shots.0.shot"),
        ('{"sentences": []}', "shots: Field required"),
        ("[" * 100_000, "expected JSON"),
        ("{" * 100_000, "expected JSON"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason(text: str, says: str) -> None:
    with pytest.raises(Unusable, match="expected JSON") as refused:
        parse(text, ShotsSaid)
    assert says in str(refused.value) and len(str(refused.value)) < 400


def test_a_page_may_be_empty_and_a_kind_may_not_be_invented() -> None:
    assert parse('{"blocks": []}', PageSaid).blocks == []
    with pytest.raises(Unusable, match=r"blocks\.0\.kind"):
        parse('{"blocks": [{"kind": "stamp", "text": "x"}]}', PageSaid)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(answer_of(text), SummarySaid)
    except Unusable:
        pass


@given(st.text(), st.lists(st.tuples(st.text(), st.lists(st.integers(1, 9), min_size=1)), max_size=3))
def test_thoughts_in_front_change_no_answer(thought: str, said: list[tuple[str, list[int]]]) -> None:
    document = {"sentences": [{"text": text, "passages": passages} for text, passages in said]}
    content = f"{thought}</think>\n{json.dumps(document)}"
    assert parse(answer_of(content), SummarySaid).model_dump() == document
