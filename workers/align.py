"""Finds start and end of every word of a span, and sends back to the backend what was heard and not written."""

import threading
from functools import cache
from pathlib import Path

from omni_jobs.errors import ErrorType, SourceError
from omni_jobs.job import Pool, UnitKind
from omni_jobs.store import units
from omni_jobs.store.claims import Claimed
from workers.answers import SpanAnswer
from workers.backends.embedded import weights
from workers.context import Context
from workers.infer import media_of, redo
from workers.inputs import CanonicalAudio
from workers.speech.words import Aligner


@cache
def _aligner(folder: Path) -> Aligner:
    """The aligner of this process, once its weights are known to be the ones that were tested."""
    weights.verified("hama", folder)
    return Aligner()


# The model's session is shared: one alignment at a time keeps memory flat, decoding goes on beside it.
_one_at_a_time = threading.Lock()


def words(unit: Claimed, context: Context) -> set[Pool]:
    """Align the words of the span that `unit.input["of"]` names."""
    parts = context.parts
    spans = units.answers(parts.db, unit.job_id, unit.revision, unit.source_id)
    span = next((one for one in spans if str(one["unit_id"]) == unit.input["of"]), None)
    if span is None or span["answer"] is None or span["kind"] != UnitKind.SPAN.value:
        raise SourceError(ErrorType.INTERNAL, f"the span {unit.input['of']} has no answer")
    answer = SpanAnswer.model_validate(span["answer"])
    audio = media_of(unit, context)
    assert isinstance(audio, CanonicalAudio)
    with _one_at_a_time:
        context.report(0.1)
        aligned = _aligner(parts.settings.home / "cache").align(audio, answer.segments, answer.language)
    context.report(0.9)
    covered = [(word.start_s, word.end_s) for segment in aligned.segments for word in segment]
    return context.finish(aligned.model_dump(mode="json"), follow=redo(unit, covered))
