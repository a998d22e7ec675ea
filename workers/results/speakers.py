"""Who says which word: turns of the whole recording laid over the words of its transcript."""

from collections.abc import Iterable, Sequence

from omni_jobs.job import UnitKind, UnitState
from omni_jobs.result import Segment, Transcript, Turn
from workers.answers import SpeakersAnswer
from workers.results.outcome import UnitOutcome
from workers.results.spelling import cut

NEAR_S = 0.5  # a word outside of all turns belongs to the nearest one up to this far
SAME_S = 0.001


def untold(units: Iterable[UnitOutcome]) -> str:
    """Why who speaks is not known though it was wanted; empty where it is known or nobody asked."""
    for unit in units:
        if unit.kind is UnitKind.SPEAKERS and unit.state is UnitState.DEAD:
            return f"who speaks is not known: {(unit.error or {}).get('message') or 'it failed without saying why'}"
    return ""


def told_apart(transcript: Transcript, units: Iterable[UnitOutcome]) -> Transcript:
    """The transcript with its speakers: of each word that lies in or near a turn, and of segments, cut where the
    speaker changes between two words.
    """
    units = list(units)
    if reason := untold(units):
        return transcript.model_copy(update={"notes": [*transcript.notes, reason]})
    turns = _turns(units)
    if not turns:
        return transcript
    timed = [entry for segment in transcript.segments for entry in (segment.words or [segment])]
    for entry, speaker in zip(timed, speakers_of([(one.start_s, one.end_s) for one in timed], turns), strict=True):
        entry.speaker = speaker
    segments = [piece for segment in transcript.segments for piece in _by_speaker(segment)]
    return transcript.model_copy(update={"segments": segments, "turns": turns})


def _turns(units: Iterable[UnitOutcome]) -> list[Turn]:
    return [
        Turn(start_s=turn.start_s, end_s=turn.end_s, speaker=turn.speaker)
        for unit in units
        if unit.kind is UnitKind.SPEAKERS and unit.answer is not None
        for turn in SpeakersAnswer.model_validate(unit.answer).turns
    ]


def speakers_of(
    times: Sequence[tuple[float, float]], turns: Sequence[Turn], near_s: float = NEAR_S
) -> list[str | None]:
    """The speaker of each stretch of time: whose turns overlap it most, else whose turn is nearest within `near_s`.

    Where two overlap it alike, who spoke last goes on.

    Args:
        times: (start_s, end_s), starts in order.
        turns: in order of their starts; they may overlap.
    """
    found: list[str | None] = []
    live: list[Turn] = []
    following = 0
    last: str | None = None
    for start_s, end_s in times:
        while following < len(turns) and turns[following].start_s <= end_s + near_s:
            live.append(turns[following])
            following += 1
        live = [turn for turn in live if turn.end_s >= start_s - near_s]
        speaker = _speaker(start_s, end_s, live, last, near_s)
        found.append(speaker)
        last = speaker or last
    return found


def _speaker(start_s: float, end_s: float, turns: Sequence[Turn], last: str | None, near_s: float) -> str | None:
    shared: dict[str, float] = {}
    away: dict[str, float] = {}
    for turn in turns:
        overlap_s = min(end_s, turn.end_s) - max(start_s, turn.start_s)
        shared[turn.speaker] = shared.get(turn.speaker, 0.0) + max(0.0, overlap_s)
        away[turn.speaker] = min(away.get(turn.speaker, near_s), max(0.0, -overlap_s))
    if not shared:
        return None
    most, least = max(shared.values()), min(away.values())
    if most > 0:
        best = [name for name in shared if shared[name] > most - SAME_S]
    else:
        best = [name for name in away if away[name] < least + SAME_S]
    return last if last in best else best[0]


def _by_speaker(segment: Segment) -> list[Segment]:
    """The segment cut where another speaker goes on; a word of nobody stays with the words before it."""
    if not segment.words:
        return [segment]
    changes: list[int] = []
    last: str | None = None
    for index, word in enumerate(segment.words):
        if word.speaker is not None:
            if last is not None and word.speaker != last:
                changes.append(index)
            last = word.speaker
    pieces = cut(segment, changes)
    return [
        piece.model_copy(update={"speaker": next((word.speaker for word in piece.words if word.speaker), None)})
        for piece in pieces
    ]
