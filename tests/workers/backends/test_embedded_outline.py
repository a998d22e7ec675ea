"""Extractive summaries: sentences of the source, with their places."""

import os
import resource
import socket
import time
from typing import Any

import pytest

from workers.backends.backend import Cancelled
from workers.backends.embedded.outline import MOST, Outline, how_many, split, spoken

DAMS = [
    "My aunt has a striped cat that sleeps on the piano.",
    "The dam holds back the water of the river for the whole valley.",
    "Engineers built the dam from concrete over a period of five years.",
    "The water of the river turns the turbines of the dam day and night.",
    "The power from the turbines of the dam lights the cities of the valley.",
    "Without the dam the river would flood the cities of the valley in spring.",
]


@pytest.fixture(scope="module")
def outline() -> Outline:
    return Outline()


def segments(texts: list[str]) -> list[dict[str, Any]]:
    return [{"start_s": 4.0 * k, "end_s": 4.0 * k + 3.5, "text": text} for k, text in enumerate(texts)]


def test_a_summary_holds_sentences_of_the_source_with_their_times(outline: Outline) -> None:
    answer = outline.summarise({"segments": segments(DAMS)})
    assert answer.method == "extractive"
    assert len(answer.sentences) == 3
    for sentence in answer.sentences:
        k = DAMS.index(sentence.text)
        assert (sentence.start_s, sentence.end_s, sentence.page) == (4.0 * k, 4.0 * k + 3.5, None)
    starts = [sentence.start_s for sentence in answer.sentences]
    assert starts == sorted(starts, key=lambda start: start or 0.0)


def test_what_stands_apart_from_the_rest_is_left_out(outline: Outline) -> None:
    chosen = outline.summarise({"segments": segments(DAMS)}).sentences
    assert chosen and DAMS[0] not in [sentence.text for sentence in chosen]


def test_pages_give_their_numbers_and_no_headings(outline: Outline) -> None:
    pages = [
        {"page": k + 3, "text": f"{k + 1} A heading about the dam and its river\n\n{s}"} for k, s in enumerate(DAMS)
    ]
    answer = outline.summarise({"pages": pages, "segments": [], "shots": []})
    assert len(answer.sentences) == 3
    assert [s.text for s in answer.sentences] == [DAMS[s.page - 3] for s in answer.sentences if s.page]


@pytest.mark.parametrize("texts", [[], DAMS[:3], [DAMS[0]] * 9, ["Yes.", "No.", "Well.", "So.", "Then."]])
def test_with_less_than_four_sentences_there_is_nothing_to_summarise(outline: Outline, texts: list[str]) -> None:
    answer = outline.summarise({"segments": segments(texts)})
    assert (answer.method, answer.sentences) == ("none", [])


def test_shots_are_not_summarised(outline: Outline) -> None:
    assert outline.summarise({"shots": segments(DAMS)}).method == "none"


def test_a_sentence_may_run_over_several_segments() -> None:
    parts = segments(["The dam holds back", "the water of the river. It was", "built of concrete in five years."])
    assert [(s.text, s.start_s, s.end_s) for s in spoken(parts)] == [
        ("The dam holds back the water of the river.", 0.0, 7.5),
        ("It was built of concrete in five years.", 4.0, 11.5),
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("He came. She left!", ["He came.", "She left!"]),
        ("Dr. Smith met J. Brown on p. 5.", ["Dr. Smith met J. Brown on p. 5."]),
        ("It cost 3.5 dollars, i.e. little. So what?", ["It cost 3.5 dollars, i.e. little.", "So what?"]),
        ("今日は晴れです。明日は雨です。", ["今日は晴れです。", "明日は雨です。"]),
        ("no stop at all", ["no stop at all"]),
    ],
)
def test_text_is_cut_at_the_ends_of_sentences(text: str, parts: list[str]) -> None:
    assert split(text) == parts


def test_long_input_is_thinned_out_and_the_same_input_gives_the_same_summary(
    outline: Outline, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    vectors = outline._vectors

    def counted(texts: Any, cancelled: Any) -> Any:
        asked.append(len(texts))
        return vectors(texts[:24], cancelled)  # enough to see it run

    monkeypatch.setattr(outline, "_vectors", counted)
    long = segments([f"{sentence[:-1]} in {1200 + n}." for n in range(200) for sentence in DAMS])
    first = outline.summarise({"segments": long})
    assert asked == [MOST]
    assert len(first.sentences) <= how_many(len(long)) == 7
    outline.summarise({"segments": segments(DAMS)})
    assert outline.summarise({"segments": long}) == first


def test_it_needs_no_network_and_little_memory_and_leaves_the_environment(
    outline: Outline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the outline must not open a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    variables = dict(os.environ)
    assert Outline().summarise({"segments": segments(DAMS)}).sentences
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 300_000
    assert dict(os.environ) == variables
    files = outline.digests().values()
    assert files and all(path.is_file() for path in files)


def test_a_cancelled_summary_stops(outline: Outline) -> None:
    with pytest.raises(Cancelled):
        outline.summarise({"segments": segments(DAMS)}, cancelled=lambda: True)


def test_many_sentences_cost_no_more_each_than_a_few() -> None:
    def cost_s(count: int) -> float:
        given = segments(["This is a sentence of seven words."] * count)
        began = time.process_time()
        assert len(spoken(given)) == count
        return (time.process_time() - began) / count

    assert min(cost_s(50_000) for _ in range(2)) < 3 * cost_s(2_000)
