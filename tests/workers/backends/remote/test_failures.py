"""The backend against servers that do not answer, or refuse: what is waited out, handed back, charged, left out."""

import math
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from omni_jobs.errors import ErrorType, SourceError, Unavailable
from tests.workers.backends.remote.asking import ask
from tests.workers.backends.remote.conftest import Make, clip, page
from tests.workers.backends.remote.recorded import Play, RecordedServer, Traits, recorded
from workers.answers import ClipAnswer, PageAnswer
from workers.backends.remote import chat, http, wire

# Servers that do not answer


def test_429_is_waited_out_as_long_as_it_says(remote: Make, server: RecordedServer) -> None:
    server.plays = [Play(429, headers={"Retry-After": "1"}, message="busy")]
    assert isinstance(ask(remote(), page()), PageAnswer)
    first, second = server.at
    assert 0.95 <= second - first < 5


def test_a_long_retry_after_hands_the_unit_back_and_is_kept_to(remote: Make, server: RecordedServer) -> None:
    backend = remote()
    server.plays = [Play(429, headers={"Retry-After": "300"}, message="busy")]
    for _ in range(2):
        with pytest.raises(Unavailable, match="429: busy"):
            ask(backend, page())
    assert len(server.asked) == 1 and "busy" in backend.health()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "play",
    [
        Play(500, message="EngineDeadError"),
        Play(503, message="loading"),
        Play(502, raw=b"<html>Bad Gateway</html>"),
        Play(200, cut=40),
        Play(200, raw=b'{"choices": [{"mess'),
        Play(200, raw=b'{"object": "error"}'),
        Play(200, raw=b'{"choices": []}'),
        Play(200, raw=b'{"choices": [{"index": 0}]}'),
        Play(200, raw=b"[" * 100_000),
        Play(200, raw=b"<html>log in</html>", headers={"Content-Type": "text/html"}),
        Play(200, raw=b"no gzip at all", headers={"Content-Encoding": "gzip"}),
        Play(204, raw=b""),
        Play(200, finish="abort"),
    ],
)
def test_a_fault_of_the_server_is_tried_again(remote: Make, server: RecordedServer, play: Play) -> None:
    server.plays = [play]
    assert isinstance(ask(remote(), page()), PageAnswer)
    assert len(server.asked) == 2


@pytest.mark.usefixtures("hasty")
def test_a_server_that_stays_faulty_hands_the_unit_back(remote: Make, server: RecordedServer) -> None:
    server.plays = [Play(500, message="EngineDeadError")] * chat.ATTEMPTS
    with pytest.raises(Unavailable, match="answered 500: EngineDeadError"):
        ask(remote(), page())
    assert server.plays == []


def test_a_dead_url_is_passed_over_for_the_one_that_lives(remote: Make, server: RecordedServer) -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        backend = remote(f"http://127.0.0.1:{dead.getsockname()[1]}/v1 9", server.url)
        began = time.monotonic()
        assert all(isinstance(ask(backend, page()), PageAnswer) for _ in range(3))
        assert time.monotonic() - began < 3 and backend.health() == ""


def test_nobody_there_hands_the_unit_back(remote: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "PATIENCE_S", 1.0)
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="cannot be reached"):
            ask(remote(f"http://127.0.0.1:{dead.getsockname()[1]}/v1"), page())


def test_a_server_that_hangs_is_left_in_time(remote: Make, server: RecordedServer) -> None:
    server.plays = [Play(hang=True)]
    with pytest.raises(Unavailable, match=r"within 0\.5 s"):
        ask(remote(remote_timeout_s=0.5), page())
    assert server.left.wait(2) and len(server.asked) == 1


def test_a_server_that_sends_a_byte_now_and_then_is_left_in_time(remote: Make, server: RecordedServer) -> None:
    server.plays = [Play(drip_s=0.05)]
    with pytest.raises(Unavailable, match=r"within 0\.5 s"):
        ask(remote(remote_timeout_s=0.5), page())
    assert len(server.asked) == 1


@pytest.mark.usefixtures("hasty")
def test_an_answer_without_end_is_cut_off(
    remote: Make, server: RecordedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MOST_BYTES", 10_000)
    server.plays = [Play(raw=b" " * 20_000)]
    assert isinstance(ask(remote(), page()), PageAnswer) and len(server.asked) == 2


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_with_key_and_media(remote: Make, server: RecordedServer, status: int) -> None:
    with recorded() as elsewhere:
        there = {"Location": f"{elsewhere.url}/chat/completions"}
        server.plays = [Play(status, headers=there, message="moved")] * chat.ATTEMPTS
        with pytest.raises(Unavailable, match=f"answered {status}: moved"):
            ask(remote(remote_key="sk-very-secret-0123456789"), page())
        assert len(server.asked) == chat.ATTEMPTS and not elsewhere.at


def test_what_the_content_is_called_does_not_matter(remote: Make, server: RecordedServer) -> None:
    server.plays = [Play(headers={"Content-Type": "text/plain"})]
    assert isinstance(ask(remote(), page()), PageAnswer) and len(server.asked) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("", None), ("soon", None), ("-5", 0.0), ("nan", 0.0), ("1.5", 1.5), ("1e400", math.inf),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Mon, 99 Jan 99999999999 00:00:00 GMT", None),
    ],
)  # fmt: skip
def test_when_to_ask_again_is_read_whatever_it_says(header: str | None, seconds: float | None) -> None:
    assert wire.retry_after_s(header) == seconds


def test_503_is_waited_out_until_the_date_it_names(remote: Make, server: RecordedServer) -> None:
    server.plays = [Play(503, headers={"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=1.6))})]
    assert isinstance(ask(remote(), page()), PageAnswer)
    first, second = server.at
    assert 0.5 <= second - first < 5  # the date has no fractions


def test_a_unit_on_which_servers_fail_while_they_answer_others_is_charged(
    remote: Make, server: RecordedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "ATTEMPTS", 1)
    backend = remote()
    for _ in range(2):
        server.plays = [Play(500, message="bad input")]
        with pytest.raises(Unavailable):
            ask(backend, page(), unit_id="poison")
        ask(backend, page(), unit_id="other")
    server.plays = [Play(500, message="bad input")]
    with pytest.raises(SourceError, match="failed on it 3 times") as charged:
        ask(backend, page(), unit_id="poison")
    assert (charged.value.type, charged.value.problem.retryable) == (ErrorType.CRASHED, True)


# Refusals


def test_a_refused_input_fails_by_what_the_server_said(remote: Make, server: RecordedServer) -> None:
    server.plays = [Play(400, message=f"image too large: data:image/png;base64,{'A' * 9000} {'x' * 900}")]
    with pytest.raises(SourceError) as refused:
        ask(remote(), page())
    assert refused.value.type is ErrorType.UNSUPPORTED and not refused.value.problem.retryable
    assert "(400): image too large: data:… xxx" in str(refused.value) and len(str(refused.value)) < 450


def test_a_prompt_beyond_the_context_fails_by_name(remote: Make) -> None:
    with (
        recorded(Traits(max_model_len=4096)) as server,
        pytest.raises(SourceError, match="maximum context length is 4096"),
    ):
        ask(remote(server.url), page())


def test_a_field_that_a_server_does_not_know_is_left_out_from_then_on(remote: Make) -> None:
    forbids = frozenset({"response_format", "top_k", "media_io_kwargs", "mm_processor_kwargs"})
    with recorded(Traits(forbids=forbids)) as server:
        backend = remote(server.url, remote_frames=8)
        assert isinstance(ask(backend, clip(4.0)), ClipAnswer)
        assert len(server.refused) == 4
        ask(backend, clip(4.0))
        assert len(server.refused) == 4 and not forbids & server.asked[-1].body.keys()


def test_a_server_that_leaves_frames_out_is_not_believed(remote: Make) -> None:
    with recorded(Traits(default_frames=32, heeds_media_io=False)) as server:
        with pytest.raises(Unavailable, match=r"about 32 of 100 frames.*num_frames.*OMNI_REMOTE_FRAMES"):
            ask(remote(server.url), clip(100.0))
        few = ask(remote(server.url, remote_frames=32), clip(100.0))
        assert isinstance(few, ClipAnswer) and all(shot.text for shot in few.shots)


def test_32_frames_by_default_are_no_trap_where_a_request_may_say_more(remote: Make) -> None:
    with recorded(Traits(default_frames=32)) as server:
        assert isinstance(ask(remote(server.url), clip(100.0)), ClipAnswer)
        # Three short questions tell how many it looks at, once.
        assert len(server.asked) == 4
    with recorded(Traits(default_frames=32, heeds_media_io=False, counts=False)) as server:
        assert isinstance(ask(remote(server.url), clip(100.0)), ClipAnswer)
