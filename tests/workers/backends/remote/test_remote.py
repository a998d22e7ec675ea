"""The backend against a server that takes nothing but the card's requests: each kind of unit, what is refused."""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from omni_jobs.errors import SourceError, Unavailable, UsageError
from omni_jobs.options import Options
from omni_jobs.settings import Settings
from tests.waiting import eventually
from tests.workers.backends.remote.asking import LONG, ask, request
from tests.workers.backends.remote.conftest import Make, clip, page
from tests.workers.backends.remote.recorded import MODEL, Play, RecordedServer, Traits, recorded
from workers import gates
from workers.answers import ClipAnswer, PageAnswer, ReduceAnswer, SpanAnswer
from workers.backends import identity_of, missing_of, open_backend
from workers.backends.backend import Cancelled, Unusable
from workers.backends.remote import Remote, chat
from workers.flight import Flight
from workers.inputs import CanonicalAudio

KEY = "sk-very-secret-0123456789"


# Each kind of unit


def test_speech_is_asked_in_windows_and_its_sentences_lie_in_their_windows(
    remote: Make, server: RecordedServer, talk: np.ndarray
) -> None:
    answer = ask(remote(), CanonicalAudio(talk, 40.0))
    assert isinstance(answer, SpanAnswer)
    assert (answer.language, answer.method) == ("en", "spans")
    assert gates.check("span", answer, start_s=40.0, end_s=40.0 + len(talk) / 16_000) is None
    assert {segment.text for segment in answer.segments} == {"It was the best of times.", "It was the worst of times."}
    assert all(one.kind == "audio" and one.text == "Transcribe this audio." for one in server.asked)
    assert all(length_s <= 30 for one in server.asked for length_s in one.audio_s)
    assert "response_format" not in server.asked[0].body and server.refused == []


def test_a_refused_span_is_asked_utterance_by_utterance(remote: Make, server: RecordedServer, talk: np.ndarray) -> None:
    backend = remote()
    ask(backend, CanonicalAudio(talk))
    windows = len(server.asked)
    answer = ask(backend, CanonicalAudio(talk), rung=1)
    assert isinstance(answer, SpanAnswer) and answer.method == "utterances"
    assert len(server.asked) - windows > windows
    # The second utterance begins after the pause, and so does what is said in it.
    assert answer.segments[-1].start_s > 11.5


def test_silence_is_nothing_to_ask_about(remote: Make, server: RecordedServer) -> None:
    answer = ask(remote(), CanonicalAudio(np.zeros(64_000, np.int16)))
    assert answer == SpanAnswer(language="") and server.asked == []


def test_another_language_is_named(remote: Make, server: RecordedServer, talk: np.ndarray) -> None:
    answer = ask(remote(), CanonicalAudio(talk), options=Options(language="de").effective())
    assert isinstance(answer, SpanAnswer) and answer.language == "de"
    assert server.asked[0].text == "Transcribe this audio. It is in German."


def test_a_clip_is_told_by_number_and_its_times_are_those_of_the_cuts(remote: Make, server: RecordedServer) -> None:
    shown = clip(4.0, 2.5, 45.0, start_s=100.0)
    answer = ask(remote(), shown)
    assert isinstance(answer, ClipAnswer)
    assert gates.check("clip", answer, start_s=100.0, end_s=151.5) is None
    assert [shot.start_s for shot in answer.shots][:3] == [100.0, 104.0, 106.5]
    assert answer.shots[0].text == "Frames 1 to 4 show a bar." and answer.shots[-1].end_s == 151.5
    (sign,) = answer.shots[0].on_screen
    assert (sign.text, sign.box, sign.time_s, sign.confidence) == ("SIGN 1", (0, 0, 1, 1), 100.5, None)
    assert {shot.sound for shot in answer.shots} == {"speech"}
    (asked,) = [one for one in server.of("video") if one.body["max_tokens"] > 1]
    assert asked.video_frames == (len(shown.frames),)
    assert asked.body["response_format"]["json_schema"]["name"] == "ShotsSaid"


def test_a_clip_of_more_frames_than_a_request_may_show_is_asked_in_several(
    remote: Make, server: RecordedServer
) -> None:
    answer = ask(remote(remote_frames=8), clip(30.0, 20.0))
    assert isinstance(answer, ClipAnswer) and all(shot.text for shot in answer.shots)
    shown = [one.video_frames[0] for one in server.of("video")]
    assert sum(shown) == 50 and max(shown) <= 8


def test_frames_are_sent_as_pictures_where_that_is_asked_for(remote: Make, server: RecordedServer) -> None:
    answer = ask(remote(remote_video="frames"), clip(4.0, 2.0))
    assert isinstance(answer, ClipAnswer) and len(answer.shots) == 2
    (asked,) = server.asked
    assert len(asked.images) == 6 and asked.video_frames == ()


def test_reasoning_is_asked_for_with_its_budget_and_never_shows(remote: Make, talk: np.ndarray) -> None:
    for reasoning in ("apart", "content"):
        with recorded(Traits(reasoning=reasoning)) as server:  # type: ignore[arg-type]
            backend = remote(server.url, remote_reasoning=2048)
            told = ask(backend, clip(4.0, 2.0))
            summed = ask(backend, None, context=LONG)
            spoken = ask(backend, CanonicalAudio(talk))
            assert "Let me see" not in json.dumps([one.model_dump(mode="json") for one in (told, summed, spoken)])
            thinking = [one for one in server.asked if one.thinks]
            assert {one.body["thinking_token_budget"] for one in thinking} == {2048 + 1024}
            assert {one.kind for one in thinking} == {"video", "text"} and server.refused == []


def test_a_server_that_always_thinks_inside_content_is_read_all_the_same(remote: Make) -> None:
    with recorded(Traits(reasoning="content", always_thinks=True, schema="ignored")) as server:
        answer = ask(remote(server.url), page(text="Dear"))
        assert isinstance(answer, PageAnswer) and answer.blocks[0].text == "Dear Ms Albrecht,"


def test_a_page_without_words_of_its_own_is_read_by_the_model(remote: Make, server: RecordedServer) -> None:
    answer = ask(remote(), page(text="Dear"))
    assert isinstance(answer, PageAnswer)
    assert (answer.source, answer.language, answer.unread) == ("ocr", "en", "")
    title, table = answer.blocks
    assert (title.kind, title.text, title.box) == ("title", "Dear Ms Albrecht,", (0, 0, 595, 842))
    assert (table.kind, table.rows, table.confidence) == ("table", [["Reel", "State"], ["1", "damp"]], None)
    (asked,) = server.asked
    assert asked.images == ((620, 877),) and asked.text.startswith("Page 3.\n\n")


def test_a_block_stands_where_the_layer_has_its_words(remote: Make) -> None:
    words = ("Dear", "Ms", "Albrecht,", *("ﬀﬁ" for _ in range(30)))
    answer = ask(remote(), page(*words))
    assert isinstance(answer, PageAnswer)
    assert answer.source == "ocr" and "agree" in answer.reason
    assert answer.blocks[0].box == (10, 20, 150, 32)
    assert answer.blocks[1].box == (0, 0, 595, 842)


def test_a_layer_that_says_what_the_model_reads_is_taken(remote: Make, server: RecordedServer) -> None:
    answer = ask(remote(), page("Dear", "Ms", "Albrecht,", "Reel", "State", "1", "damp"))
    assert isinstance(answer, PageAnswer)
    assert answer.source == "text_layer" and "Albrecht" in answer.blocks[0].text and len(server.asked) == 1


@pytest.mark.parametrize(("words", "source"), [(("Trusted", "words", "of", "a", "page."), "text_layer"), ((), "none")])
def test_what_needs_no_eyes_is_not_asked(
    remote: Make, server: RecordedServer, words: tuple[str, ...], source: str
) -> None:
    answer = ask(remote(), page(*words, picture=False))
    assert isinstance(answer, PageAnswer) and answer.source == source
    blank = ask(remote(), page(*words, text=""))
    assert isinstance(blank, PageAnswer) and blank.source == source and server.asked == []


def test_a_summary_points_at_its_passages(remote: Make, server: RecordedServer) -> None:
    answer = ask(remote(), None, context=LONG)
    assert isinstance(answer, ReduceAnswer)
    (sentence,) = answer.sentences
    # Passages in the order of time: the first sentence, then the shot.
    assert (answer.method, sentence.start_s, sentence.end_s, sentence.page) == ("model", 0.0, 9.0, None)
    assert "[14] The dam was built in 1931." in server.asked[0].text


def test_a_long_source_is_summed_up_in_parts(remote: Make, server: RecordedServer) -> None:
    pages = [{"page": k, "text": f"page{k} " * 1500} for k in range(1, 21)]
    answer = ask(remote(), None, context={"pages": pages})
    assert isinstance(answer, ReduceAnswer)
    assert len(server.asked) == 5 and max(len(one.text) for one in server.asked) < 70_000
    assert answer.sentences[0].page == 1


def test_nothing_to_sum_up_is_not_asked(remote: Make, server: RecordedServer) -> None:
    assert ask(remote(), None, context={"segments": [], "shots": [], "pages": []}) == ReduceAnswer(method="none")
    assert server.asked == []


# Answers that are of no use


@pytest.mark.parametrize(
    ("play", "gate"),
    [
        (Play(content="I see a letter."), "schema"),
        (Play(content='{"blocks": [{"kind": "te', finish="length"), "length"),
        (Play(content='{"blocks": []}', finish="length"), "length"),
        (Play(content="", finish="stop"), "schema"),
        (Play(content="{}", finish="content_filter"), "ending"),
        (Play(content="{}", finish="tool_calls"), "ending"),
    ],
)
def test_an_answer_that_cannot_be_taken_is_refused_by_a_gate(
    remote: Make, server: RecordedServer, play: Play, gate: str
) -> None:
    server.plays = [play]
    with pytest.raises(Unusable) as refused:
        ask(remote(), page())
    assert refused.value.gate == gate and len(server.asked) == 1


def test_asked_again_it_is_asked_in_another_way(remote: Make, server: RecordedServer) -> None:
    backend = remote()
    ask(backend, page())
    ask(backend, page(), rung=1)
    first, second = (one.body for one in server.asked)
    assert (first["temperature"], first["top_k"]) == (0.2, 1) and "seed" not in first
    assert (second["temperature"], second["top_p"], second["seed"]) == (0.6, 0.95, 2)
    assert second["max_tokens"] == 2 * first["max_tokens"]
    assert server.asked[1].images[0] == (930, 1315)


def test_shots_that_are_left_out_are_asked_for_again_and_then_left_empty(remote: Make, server: RecordedServer) -> None:
    backend = remote(remote_frames=64)
    one_of_two = Play(content='{"shots": [{"shot": 2, "caption": "A dog."}, {"shot": 9, "caption": "?"}]}')
    ask(backend, clip(3.0, 3.0))  # how many frames it looks at is known from here on
    server.plays = [one_of_two]
    with pytest.raises(Unusable, match="1 of 2 shots"):
        ask(backend, clip(3.0, 3.0))
    server.plays = [one_of_two]
    answer = ask(backend, clip(3.0, 3.0), rung=1)
    assert isinstance(answer, ClipAnswer) and [shot.text for shot in answer.shots] == ["", "A dog."]


def test_a_summary_without_evidence_is_refused(remote: Make, server: RecordedServer) -> None:
    server.plays = [Play(content='{"sentences": [{"text": "It is so.", "passages": [99]}]}')]
    with pytest.raises(Unusable, match="names a passage"):
        ask(remote(), None, context=LONG)


# Cancelling


def test_a_cancelled_unit_is_left_within_a_second_and_its_connection_closed(
    remote: Make, server: RecordedServer
) -> None:
    backend = remote()
    server.plays = [Play(hang=True)]
    future = backend.submit(request(page()))
    assert eventually(lambda: server.asked)
    assert 0 <= backend.progress("u") < backend.progress("u") < 1  # it creeps while it is waited for
    began = time.monotonic()
    backend.cancel("u")
    with pytest.raises(Cancelled):
        future.result(5)
    assert time.monotonic() - began < 1 and server.left.wait(1)
    assert backend.progress("u") == 0.0 and backend.stats().running == 0
    backend.cancel("u")
    assert isinstance(ask(backend, page()), PageAnswer)


def test_a_unit_cancelled_before_it_began_is_not_asked(remote: Make, server: RecordedServer) -> None:
    backend = remote(remote_concurrency=1)
    server.plays = [Play(hang=True)]
    first, second = backend.submit(request(page(), unit_id="a")), backend.submit(request(page(), unit_id="b"))
    assert eventually(lambda: server.asked)
    backend.cancel("b")
    with pytest.raises(Cancelled):
        second.result(1)
    backend.close()
    with pytest.raises(Cancelled):
        first.result(1)
    assert len(server.asked) == 1


def test_no_more_is_asked_at_once_than_there_are_places(remote: Make) -> None:
    def slowly(asked: object) -> str:
        time.sleep(0.1)
        return '{"blocks": []}'

    with recorded(answering=slowly) as server:
        backend = remote(server.url, remote_concurrency=3)
        assert backend.capabilities().slots == 3
        futures = [backend.submit(request(page(), unit_id=str(k))) for k in range(9)]
        assert all(isinstance(future.result(20), PageAnswer) for future in futures)
        assert server.busiest == 3


# Who answers, and what is kept quiet


@pytest.mark.usefixtures("hasty")
def test_a_key_is_sent_and_never_said(remote: Make, caplog: pytest.LogCaptureFixture, capsys: Any) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with recorded(Traits(key=KEY)) as server:
        backend = remote(server.url, remote_key=KEY)
        assert isinstance(ask(backend, page()), PageAnswer)
        assert server.asked[0].authorization == f"Bearer {KEY}"
        server.plays = [Play(400, message=f"no such thing, Bearer {KEY}")]
        with pytest.raises(SourceError, match=r"Bearer \*\*\*") as refused:
            ask(backend, page())
        said += [str(refused.value), str(backend.capabilities()), str(backend.identity())]
        server.traits.key = "another"
        with pytest.raises(
            Unavailable, match=r"refuses the key \(401\): Incorrect API key provided: Bearer \*\*\*"
        ) as away:
            ask(backend, page())
        said += [str(away.value), backend.health(), str(Settings(remote_key=KEY))]
    output = capsys.readouterr()
    assert KEY not in "".join([*said, caplog.text, output.out, output.err])


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("status", [401, 403, 404])
def test_wrong_settings_cost_no_unit(remote: Make, server: RecordedServer, status: int) -> None:
    server.plays = [Play(status, message="no")] * chat.ATTEMPTS
    with pytest.raises(Unavailable, match=f"refuses the .*{status}"):
        ask(remote(), page())


def test_the_identity_is_that_of_the_model_and_of_how_it_is_asked() -> None:
    def digest(**changes: Any) -> str:
        settings = {"remote_urls": ("http://a:1",), "remote_model": MODEL, **changes}
        return identity_of(Settings(backend="remote", **settings)).digest

    assert digest() == digest(remote_urls=("http://b:2", "http://c:3 4"), remote_key="k", remote_timeout_s=9.0)
    changes: list[dict[str, Any]] = [
        {"remote_model": "other"}, {"remote_frames": 64}, {"remote_video": "frames"}, {"remote_reasoning": 1},
        {"remote_max_tokens": 512}, {"remote_language": "de"},
    ]  # fmt: skip
    assert len({digest(), *(digest(**change) for change in changes)}) == 1 + len(changes)
    who = identity_of(Settings(backend="remote", remote_model=MODEL))
    assert who.backend == "remote" and who.models["captions"] == MODEL
    with pytest.raises(UsageError, match="OMNI_REMOTE_MODEL"):
        identity_of(Settings(backend="remote"))


def test_it_is_opened_by_its_name_and_says_what_it_does_not(
    server: RecordedServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"URLS": f"{server.url} 2", "MODEL": MODEL, "KINDS": "clip, page", "CONCURRENCY": "7"}
    for name, value in {"BACKEND": "remote", **{f"REMOTE_{key}": value for key, value in environment.items()}}.items():
        monkeypatch.setenv(f"OMNI_{name}", value)
    settings = Settings()
    backend = open_backend(settings, Flight(tmp_path / "flight"))
    try:
        able = backend.capabilities()
        assert (able.kinds, able.slots) == (frozenset({"clip", "page"}), 7)
        assert able.missing == missing_of(settings) and any("speech" in one for one in able.missing)
    finally:
        backend.close()
        backend.close()


def test_no_urls_is_said_when_it_is_opened(remote: Callable[..., Remote], tmp_path: Any) -> None:
    with pytest.raises(UsageError, match="OMNI_REMOTE_URLS"):
        Remote(Settings(backend="remote", remote_model=MODEL))
