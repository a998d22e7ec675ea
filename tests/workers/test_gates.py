"""Gates refuse what cannot be, and let pass what people say."""

import json
from pathlib import Path

import pytest

from workers.answers import ClipAnswer, PageAnswer, ReduceAnswer, ShotAnswer, SpanAnswer, SpokenSegment, SpokenWord
from workers.gates import LADDER, TOLERANCE_S, Verdict, check


def said(*texts: str, each_s: float = 2.0, start_s: float = 10.0, language: str = "en") -> SpanAnswer:
    """Segments one after the other from the start of the unit."""
    segments = [
        SpokenSegment(start_s=start_s + each_s * k, end_s=start_s + each_s * (k + 1), text=text)
        for k, text in enumerate(texts)
    ]
    return SpanAnswer(language=language, segments=segments)


def timed(*times: tuple[float, float], words: tuple[tuple[float, float], ...] = ()) -> SpanAnswer:
    found = [SpokenWord(text="w", start_s=a, end_s=b, method="whisper") for a, b in words]
    segments = [SpokenSegment(start_s=a, end_s=b, text=f"one {a}", words=found) for a, b in times]
    return SpanAnswer(language="en", segments=segments)


def judged(answer: SpanAnswer | ClipAnswer, start_s: float = 10.0, end_s: float = 300.0) -> str:
    verdict = check("span" if isinstance(answer, SpanAnswer) else "clip", answer, start_s=start_s, end_s=end_s)
    return verdict.gate if verdict else ""


@pytest.mark.parametrize("times", [4, 5, 64])
@pytest.mark.parametrize("phrase", ["Thank you.", "Thanks for watching!", "So I went to the house Jack built, and"])
def test_a_phrase_said_four_times_in_a_row_is_a_loop(phrase: str, times: int) -> None:
    assert judged(said(*[phrase] * times)) == "repetition"
    assert judged(said("Before that he spoke.", " ".join([phrase] * times), "And after.")) == "repetition"
    assert judged(said(*[phrase] * 3)) == ""


def test_a_loop_over_several_segments_is_found() -> None:
    assert judged(said(*["I do not know.", "What do you think?"] * 4)) == "repetition"


def test_one_word_may_be_said_some_times() -> None:
    assert judged(said("No, no, no, no. Thou also, thou also.")) == ""
    assert judged(said("ha " * 7)) == ""
    assert judged(said("ha " * 8)) == "repetition"


def test_a_loop_in_a_script_without_spaces_is_found() -> None:
    assert judged(said("ご視聴ありがとうございました" * 4, language="ja")) == "repetition"
    assert judged(said(*["そうですね。"] * 4, language="ja")) == "repetition"
    assert judged(said("はははは、そうですね。はい、はい、はい、はい。散歩に行きました。", language="ja")) == ""


def test_a_verdict_says_what_was_found() -> None:
    verdict = check("span", said(*["Thank you."] * 5), start_s=10, end_s=30)
    assert verdict == Verdict("repetition", "it says the same 5 times in a row: thank you")


@pytest.mark.parametrize(
    "answer",
    [
        timed((20, 22), (12, 14)),
        timed((9.0, 12)),
        timed((290, 301)),
        timed((14, 12)),
        timed((float("nan"), 12)),
        timed((12, float("inf"))),
        timed((12, 20), words=((13, 14), (12, 13))),
        timed((12, 20), words=((13, 14), (13, 301))),
        ClipAnswer(shots=[ShotAnswer(start_s=a, end_s=a + 1, text="") for a in (20, 12)]),
        ClipAnswer(shots=[ShotAnswer(start_s=5, end_s=12, text="")]),
    ],
)
def test_times_that_cannot_be_are_refused(answer: SpanAnswer | ClipAnswer) -> None:
    assert judged(answer) == "time order"


def test_times_may_be_off_by_the_tolerance_but_never_below_zero() -> None:
    near = TOLERANCE_S * 0.9
    assert judged(timed((10 - near, 12), (20, 21), (20 - near, 300 + near), words=((12, 13), (12, 12)))) == ""
    assert judged(timed((-near, 12)), start_s=0.0) == "time order"
    assert judged(timed((0.0, 12)), start_s=0.0) == ""


def test_nothing_said_is_fine() -> None:
    assert judged(SpanAnswer(language="")) == judged(said("", "...")) == judged(ClipAnswer()) == ""
    assert check("page", PageAnswer(source="none"), start_s=0, end_s=0) is None
    assert check("reduce", ReduceAnswer(), start_s=0, end_s=0) is None


def test_a_kind_without_a_ladder_is_refused() -> None:
    assert set(LADDER) == {"span", "clip", "page", "reduce"}
    with pytest.raises(ValueError, match="got words"):
        check("words", SpanAnswer(language=""), start_s=0, end_s=1)


def test_an_hour_of_real_speech_passes(media: Path) -> None:
    """What is really said in the test media, sentence by sentence as the truth has it."""
    truth = json.loads((media / "speech" / "hour.json").read_text())
    texts = [one["text"] for one in truth["utterances"]]
    assert len(texts) > 100
    assert judged(said(*texts, each_s=0.01)) == ""
