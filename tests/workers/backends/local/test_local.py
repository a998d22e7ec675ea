"""Units answered by our own engine, on the CPU, by a model of few weights."""

import hashlib
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_jobs import extras
from omni_jobs.errors import ErrorType, NotFound, SourceError, UsageError
from omni_jobs.models.record import Record
from omni_jobs.models.store import ModelStore
from omni_jobs.settings import Settings
from tests.waiting import eventually
from tests.workers.backends.local.conftest import Make
from tests.workers.backends.remote.conftest import clip, page
from workers import prompts
from workers.answers import ClipAnswer, PageAnswer, ReduceAnswer, SpanAnswer
from workers.backends import identity_of, missing_of, open_backend
from workers.backends.asking import spans
from workers.backends.backend import Cancelled, Request, UnitAnswer, Unusable
from workers.backends.local import Local
from workers.backends.local import weights as weights_module
from workers.engine.checkpoint import reader
from workers.engine.errors import EngineFailed
from workers.flight import Flight, read
from workers.inputs import CanonicalAudio

SOON_S = 60.0
SEGMENTS = [
    {"start_s": 10.0 * at, "end_s": 10.0 * at + 9.0, "text": f"This is passage {at} of a talk, and it is about rain."}
    for at in range(6)
]


def ask(backend: Local, kind: str, media: Any = None, **more: Any) -> "Future[UnitAnswer]":
    unit_id = more.pop("unit_id", "") or str(uuid.uuid4())
    return backend.submit(Request(unit_id, kind, media, {}, **more))


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> CanonicalAudio:
    """Noise that counts as speech from second 1 to second 3."""
    monkeypatch.setattr(spans, "speech_spans", lambda samples: [(1.0, 3.0)])
    noise = np.random.default_rng(1).integers(-3000, 3000, 4 * 16_000)
    return CanonicalAudio(noise.astype(np.int16), 40.0)


def test_every_kind_of_unit_is_answered(local: Make, answering: None, spoken: CanonicalAudio) -> None:
    backend = local()
    asked = [
        ask(backend, "span", spoken),
        ask(backend, "clip", clip(4.0)),
        ask(backend, "page", page(text="Dear")),
        ask(backend, "reduce", context={"segments": SEGMENTS}),
    ]
    span, seen, read, summed = (one.result(SOON_S) for one in asked)
    assert isinstance(span, SpanAnswer) and span.segments and span.language == "en"
    assert all(41.0 <= one.start_s <= one.end_s <= 43.0 and one.text for one in span.segments)
    assert isinstance(seen, ClipAnswer)
    (shot,) = seen.shots
    assert (shot.start_s, shot.end_s) == (100.0, 104.0) and len(shot.text) >= 4
    assert shot.evidence["frames"] == 4 and shot.evidence["first_frame_s"] == 100.5
    assert isinstance(read, PageAnswer) and read.source == "ocr" and len(read.blocks[0].text) >= 3
    assert isinstance(summed, ReduceAnswer) and summed.method == "model"
    assert [(one.start_s, one.end_s) for one in summed.sentences] == [(10.0, 19.0)]
    assert backend.stats().answered == 4


def test_an_answer_does_not_depend_on_its_neighbours(local: Make, answering: None, spoken: CanonicalAudio) -> None:
    backend = local()
    alone = ask(backend, "clip", clip(4.0), rung=1).result(SOON_S)
    together = [ask(backend, "clip", clip(4.0), rung=1), ask(backend, "span", spoken), ask(backend, "page", page())]
    assert together[0].result(SOON_S) == alone != ask(backend, "clip", clip(4.0)).result(SOON_S)


def test_media_wait_for_room_on_the_host(local: Make, answering: None) -> None:
    backend = local(model_media_bytes=1)
    pages = [ask(backend, "page", page(text="Dear")) for _ in range(2)]
    assert len({one.result(SOON_S).model_dump_json() for one in pages}) == 1
    assert backend._asker._room.held_bytes == 0


def test_who_waits_for_room_can_be_cancelled(local: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    endless(monkeypatch)
    backend, (first, second) = local(model_max_tokens=2000, model_media_bytes=1), [str(uuid.uuid4()) for _ in range(2)]
    room = backend._asker._room
    held = ask(backend, "page", page(), unit_id=first)
    # Two that decode at the same time may both come in: the second asks when the room is full.
    assert eventually(lambda: backend.stats().running == 1 and room.held_bytes > 0, SOON_S)
    waits = ask(backend, "page", page(), unit_id=second)
    assert eventually(lambda: room._held.get(second) == 0, SOON_S)
    backend.cancel(second)
    with pytest.raises(Cancelled):
        waits.result(5)
    assert not held.done() and backend.stats().running == 1


def test_what_does_not_end_or_misses_the_question_may_be_asked_again(local: Make) -> None:
    backend = local(model_max_tokens=16)
    with pytest.raises(Unusable, match="did not end within 16 tokens") as caught:
        ask(backend, "page", page(text="Dear")).result(SOON_S)
    assert caught.value.gate == "length"
    with pytest.raises(Unusable, match="describes 0 of 1 shots"):
        ask(local(), "clip", clip(4.0)).result(SOON_S)


def test_thoughts_have_a_budget_and_are_no_part_of_the_answer(
    local: Make, answering: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "GRACE_TOKENS", 4)
    answer = ask(local(model_reasoning=6), "clip", clip(4.0)).result(SOON_S)
    assert isinstance(answer, ClipAnswer) and answer.shots[0].text
    assert answer != ask(local(), "clip", clip(4.0)).result(SOON_S)


def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer ends before its length."""
    schema = {"type": "string", "minLength": 100_000}
    monkeypatch.setattr(prompts, "schema_of", lambda shape: schema)


def test_cancelled_it_ends_at_once_and_may_be_asked_again(local: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    endless(monkeypatch)
    backend, unit_id = local(model_max_tokens=2000), str(uuid.uuid4())
    future = ask(backend, "page", page(), unit_id=unit_id, rung=0)
    assert eventually(lambda: backend.stats().running == 1, SOON_S)
    before = backend.progress(unit_id)
    assert eventually(lambda: backend.progress(unit_id) > before, SOON_S) and before < 1.0
    steps = backend._engine.loop.steps
    backend.cancel(unit_id)
    with pytest.raises(Cancelled):
        future.result(SOON_S)
    assert backend._engine.loop.steps - steps < 200
    assert (backend.stats().running, backend.stats().waiting) == (0, 0)
    again = ask(backend, "page", page(), unit_id=unit_id)
    assert eventually(lambda: backend.stats().running == 1, SOON_S)
    backend.close()
    with pytest.raises(Cancelled):
        again.result(0)
    with pytest.raises(Cancelled):
        ask(backend, "page", page()).result(0)


def test_a_deadline_ends_it(local: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    endless(monkeypatch)
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"within 0\.5 s") as caught:
        ask(local(model_max_tokens=2000, model_timeout_s=0.5), "page", page()).result(SOON_S)
    assert caught.value.type is ErrorType.TIMEOUT and caught.value.problem.retryable
    assert time.monotonic() - began < 15.0


def test_what_can_never_fit_is_said(local: Make) -> None:
    many = [{**one, "text": "word " * 300} for one in SEGMENTS]
    with pytest.raises(SourceError, match="expected at most") as caught:
        ask(local(), "reduce", context={"segments": many}).result(SOON_S)
    assert caught.value.type is ErrorType.TOO_LARGE


def test_the_flight_record_knows_who_entered(local: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless(monkeypatch)
    path, unit_id = tmp_path / "flight", str(uuid.uuid4())
    flight = Flight(path)
    entered: list[list[str]] = []
    step = flight.step
    monkeypatch.setattr(flight, "step", lambda ids: (entered.append(list(ids)), step(ids)))
    backend = local(flight, model_max_tokens=2000)
    flight.enter(unit_id)
    future = ask(backend, "page", page(), unit_id=unit_id)
    assert eventually(lambda: backend.stats().running == 1 and len(entered) > 20, SOON_S)
    found = read(path)
    assert [unit_id] in entered and found is not None and found.suspects == (unit_id,)
    backend.cancel(unit_id)
    with pytest.raises(Cancelled):
        future.result(SOON_S)


def test_a_failed_engine_is_told_before_its_units_are(local: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    backend = local(on_failure=told.append)
    assert backend.health() == ""

    def broken(*_: Any) -> Any:
        raise ValueError("a kernel went wrong")

    monkeypatch.setattr(backend._engine.loop._engine._runner, "launch", broken)
    future = ask(backend, "page", page(text="Dear"))
    seen: list[int] = []
    future.add_done_callback(lambda _: seen.append(len(told)))
    with pytest.raises(EngineFailed):
        future.result(SOON_S)
    assert seen == [1] and "a kernel went wrong" in told[0] and "a kernel went wrong" in backend.health()


def test_who_answers(local: Make, settings_of: Callable[..., Settings], weights: Path) -> None:
    backend, settings = local(), settings_of()
    who = backend.identity()
    assert who == identity_of(settings) and who.backend == "local"
    assert who.models["speech"] == f"tiny-omni {backend._engine.digest[:12]}"
    assert who.models["prompts"] == prompts.VERSION and who.digest != identity_of(settings_of(model_frames=9)).digest
    able = backend.capabilities()
    assert able.kinds == {"span", "clip", "page", "reduce"} and able.missing == missing_of(settings) != ()
    assert able.slots == backend._engine.loop.load.free_slots > 1


def test_the_weights_are_named_once(
    local: Make, settings_of: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[Any] = []
    for module in (reader, weights_module):
        digest_of = module.digest_of
        monkeypatch.setattr(module, "digest_of", lambda found, of=digest_of: (named.append(found), of(found))[1])
    assert local().identity().models and len(named) == 1


def test_weights_that_were_fetched_are_called_as_they_were_added(
    settings_of: Callable[..., Settings], weights: Path, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "models")
    with store.locked("omni-fp8"):
        shutil.copytree(weights, store.weights("omni-fp8"))
        store.write(Record("omni-fp8", "hf:a/b", store.weights("omni-fp8"), "dense", (), 0, whole=True))
    found = identity_of(settings_of(model="omni-fp8", models_dir=store.root))
    assert found.models["speech"].startswith("omni-fp8 ") and found.digest == identity_of(settings_of()).digest


def test_other_prompts_are_another_identity(
    settings_of: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity_of(settings_of()).digest
    monkeypatch.setattr(prompts, "VERSION", "another")
    assert identity_of(settings_of()).digest != before != hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(("model", "message"), [("", "needs OMNI_MODEL"), ("/no/such/place", "nor a directory")])
def test_without_a_model_it_says_so(settings_of: Callable[..., Settings], model: str, message: str) -> None:
    with pytest.raises((UsageError, NotFound), match=message):
        identity_of(settings_of(model=model))


def test_without_the_engine_it_says_how_to_get_it(
    settings_of: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "ENGINE", (*extras.ENGINE, "no_such_package"))
    with pytest.raises(UsageError, match=r"pip install 'omni-jobs\[engine\]'"):
        open_backend(settings_of(), Flight(tmp_path / "flight"))


def test_who_would_answer_is_known_without_torch(weights: Path) -> None:
    program = (
        "import sys; from omni_jobs.settings import Settings; import workers.backends as b;"
        f"who = b.identity_of(Settings(backend='local', model={str(weights)!r}));"
        "assert 'torch' not in sys.modules, 'torch'; print(who.models['speech'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("tiny-omni "), done.stderr
