"""`omni-jobs backend test` against servers with the traits of real ones."""

from typing import Any

import pytest

from tests.omni_jobs.cli.conftest import Run
from tests.workers.backends.remote.recorded import MODEL, Asked, RecordedServer, Traits, plain, plausible, recorded

KEY = "sk-very-secret-0123456789"
NAMES = [
    "models", "text", "thinking off", "thinking on", "cut-off answers", "JSON schema", "image", "audio", "video",
    "frames of a long video", "longest answer", "long prompts",
]  # fmt: skip


def checks(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in document["checks"]}


def tried(run: Run, server: RecordedServer, *words: str) -> tuple[int, dict[str, Any]]:
    ran = run("backend", "test", server.url, "--json", *words)
    return ran.status, ran.document


def test_a_server_as_the_card_starts_it_is_all_right(run: Run) -> None:
    with recorded() as server:
        status, document = tried(run, server)
        shown = run("backend", "test", server.url)
    assert [one["name"] for one in document["checks"]] == NAMES
    assert {one["state"] for one in document["checks"]} == {"ok"}, document["checks"]
    assert (status, document["ok"], document["kinds"]) == (0, True, ["span", "clip", "page", "reduce"])
    assert document["settings"] == {
        "OMNI_BACKEND": "remote", "OMNI_REMOTE_URLS": server.url, "OMNI_REMOTE_MODEL": MODEL,
    }  # fmt: skip
    assert server.refused == []
    assert shown.status == 0 and shown.err == ""
    assert "looks at all of 128" in shown.out and f"export OMNI_REMOTE_MODEL={MODEL}" in shown.out
    assert "can answer: speech, captions, pages, summaries\n" in shown.out


def test_the_traps_of_a_server_are_named_with_what_follows(run: Run) -> None:
    traits = Traits(
        default_frames=32,
        heeds_media_io=False,
        reasoning="content",
        schema="ignored",
        forbids=frozenset({"media_io_kwargs"}),
        max_model_len=40_000,
    )
    with recorded(traits, plain) as server:
        status, document = tried(run, server)
    found = checks(document)
    assert status == 0 and document["ok"]
    assert found["models"]["found"] == f"{MODEL}, context of 40,000 tokens"
    assert "inside `content`" in found["thinking on"]["found"] and "nemotron_v3" in found["thinking on"]["follows"]
    assert found["thinking off"]["state"] == "ok"
    assert found["JSON schema"]["state"] == "note" and "does not keep to it" in found["JSON schema"]["found"]
    frames = found["frames of a long video"]
    assert frames["found"] == "looks at about 32 of 128" and "--media-io-kwargs" in frames["follows"]
    assert document["settings"]["OMNI_REMOTE_FRAMES"] == "32"


def test_what_a_server_cannot_take_is_left_out_of_what_it_is_asked(run: Run) -> None:
    traits = Traits(audio=False, video=False, forbids=frozenset({"response_format", "thinking_token_budget"}))
    with recorded(traits) as server:
        status, document = tried(run, server)
    found = checks(document)
    assert status == 1 and not document["ok"]
    assert found["audio"]["state"] == "bad" and "vllm[audio]" in found["audio"]["found"]
    assert found["video"]["state"] == "bad" and found["frames of a long video"]["found"] == "takes no video"
    assert found["JSON schema"]["found"] == "refuses `response_format`"
    assert "thinking_token_budget" in found["thinking on"]["found"]
    assert document["kinds"] == ["clip", "page", "reduce"]
    assert document["settings"] | {"OMNI_REMOTE_URLS": ""} == {
        "OMNI_BACKEND": "remote", "OMNI_REMOTE_URLS": "", "OMNI_REMOTE_MODEL": MODEL,
        "OMNI_REMOTE_VIDEO": "frames", "OMNI_REMOTE_KINDS": "clip,page,reduce",
    }  # fmt: skip


def test_what_a_server_does_in_silence_is_found_out(run: Run) -> None:
    """Media that it takes and throws away, prompts that it cuts, answers that it cuts without a word."""

    def cut(asked: Asked) -> str:
        return "one two three" if "Count" in asked.text else plausible(asked)

    with recorded(Traits(silent_context=30, always_thinks=True), cut) as server:
        status, document = tried(run, server)
    found = checks(document)
    assert status == 1
    assert found["image"]["found"] == "takes an image and does not look at it"
    assert found["audio"]["found"] == "takes sound and does not listen to it"
    assert found["long prompts"]["found"] == "reads 30 tokens of a prompt of 12,000 words, and does not say so"
    assert found["cut-off answers"]["state"] == "bad" and found["thinking off"]["state"] == "note"
    assert document["kinds"] == ["reduce"]


def test_a_small_context_says_how_long_answers_may_be(run: Run) -> None:
    with recorded(Traits(max_model_len=6000)) as server:
        status, document = tried(run, server)
    found = checks(document)
    assert found["longest answer"]["found"] == "4,096 tokens may be asked for"
    assert document["settings"]["OMNI_REMOTE_MAX_TOKENS"] == "4096"
    assert (
        found["long prompts"]["state"] == "bad" and "maximum context length is 6000" in found["long prompts"]["found"]
    )
    assert status == 1


def test_a_server_that_does_not_count_is_taken_at_its_word(run: Run) -> None:
    with recorded(Traits(counts=False)) as server:
        status, document = tried(run, server)
    assert status == 0 and checks(document)["frames of a long video"]["state"] == "note"


def test_nobody_there_and_a_wrong_key_and_a_wrong_model_are_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    status, document = tried(run, _closed())
    assert status == 1 and "cannot be reached" in document["checks"][-1]["found"] and document["settings"] == {}
    with recorded(Traits(key=KEY)) as server:
        status, document = tried(run, server)
        assert status == 1 and "refuses the key (401)" in document["checks"][-1]["found"]
        monkeypatch.setenv("OMNI_REMOTE_KEY", KEY)
        ran = run("backend", "test", server.url, "--model", "gpt-2")
        assert ran.status == 1 and f"no gpt-2: it has {MODEL}" in ran.out
        ran = run("backend", "test", server.url, "--json")
        assert ran.status == 0 and KEY not in ran.out + ran.err


def test_what_is_no_url_is_a_mistake(run: Run) -> None:
    ran = run("backend", "test", "gpu-1:8000", "--json")
    assert ran.status == 2 and "such as http://gpu-1:8000/v1" in ran.err
    assert ran.document["error"]["type"] == "invalid"


def test_doctor_says_whom_it_would_ask(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_BACKEND", "remote")
    ran = run("doctor", "--json")
    assert "needs OMNI_REMOTE_MODEL" in ran.document["backend"]["message"]
    monkeypatch.setenv("OMNI_REMOTE_MODEL", MODEL)
    monkeypatch.setenv("OMNI_REMOTE_URLS", "http://gpu-1:8000 3")
    monkeypatch.setenv("OMNI_REMOTE_KEY", KEY)
    ran = run("doctor", "--json")
    assert ran.document["backend"]["models"]["captions"] == MODEL
    assert {one["name"] for one in ran.document["models"] if one["needed"]} == {"silero-vad", "hama"}
    said = run("doctor").out
    assert "`omni-jobs backend test http://gpu-1:8000/v1` tries it out" in said and KEY not in said


def _closed() -> RecordedServer:
    server = RecordedServer()
    server.close()
    return server
