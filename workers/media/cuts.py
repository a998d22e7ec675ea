"""Where a recording is cut into units: sound in silences, video at shots. Pure arithmetic on seconds."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

from workers.inputs import Shot

TARGET_S, LONGEST_S = 300.0, 360.0
LONGEST_CLIP_S = 120.0
MOST_FRAMES = 128
# A silence this much longer outweighs a cut one second nearer to the target.
SILENCE_PER_S = 0.01

Interval = tuple[float, float]


def spans(
    speech: Sequence[Interval],
    duration_s: float,
    target_s: float = TARGET_S,
    longest_s: float = LONGEST_S,
    start_s: float = 0.0,
) -> list[Interval]:
    """Cut `start_s`..`duration_s` into contiguous spans of about `target_s`, each cut in the middle of a silence.

    Only where no silence lies between half of `target_s` and `longest_s` is speech cut, in the middle of the
    shortest pause there is none of, that is: at the target.
    """
    if not 0 < target_s <= longest_s:
        raise ValueError(f"expected 0 < target_s <= longest_s, got {target_s} and {longest_s}")
    quiet = silences(speech, start_s, duration_s)
    found: list[Interval] = []
    at = start_s
    while duration_s - at > longest_s:
        cut = _cut(quiet, at, duration_s, target_s, longest_s)
        found.append((at, cut))
        at = cut
    if duration_s > at:
        found.append((at, duration_s))
    return found


def silences(speech: Sequence[Interval], start_s: float, end_s: float) -> list[Interval]:
    """What lies between the speech, sorted; speech may overlap and come in any order."""
    quiet: list[Interval] = []
    at = start_s
    for begin, end in sorted(speech):
        if begin > at:
            quiet.append((at, min(begin, end_s)))
        at = max(at, end)
        if at >= end_s:
            return quiet
    quiet.append((at, end_s))
    return quiet


def _cut(quiet: list[Interval], at: float, end_s: float, target_s: float, longest_s: float) -> float:
    """The best place for the end of a span that begins at `at`."""
    earliest, latest = at + target_s / 2, at + longest_s
    # What remains must not be a crumb: two halves are better than a span and a rest of two seconds.
    wanted = at + min(target_s, (end_s - at) / 2) if end_s - at < 2 * target_s else at + target_s
    best: tuple[float, float] | None = None
    first = max(bisect_left(quiet, (earliest,)) - 1, 0)
    for begin, end in quiet[first:]:
        if begin > latest:
            break
        middle = (begin + end) / 2
        place = min(max(middle, earliest), latest)
        if not begin < place < end:
            continue
        length = min(end, latest) - max(begin, earliest)
        score = min(length, 5.0) - SILENCE_PER_S * abs(place - wanted)
        if best is None or score > best[0]:
            best = (score, place)
    return wanted if best is None else best[1]


def shots(cut_times_s: Sequence[float], start_s: float, end_s: float) -> list[Shot]:
    """Contiguous shots between cuts; cuts outside the video are ignored."""
    edges = [start_s, *sorted({time for time in cut_times_s if start_s < time < end_s}), end_s]
    return [Shot(begin, end) for begin, end in pairwise(edges) if end > begin]


def clips(shots: Sequence[Shot], longest_s: float = LONGEST_CLIP_S) -> list[tuple[Shot, ...]]:
    """Group contiguous shots into clips of at most `longest_s`; a longer shot is cut at its multiples."""
    grouped: list[tuple[Shot, ...]] = []
    current: list[Shot] = []
    for shot in (part for whole in shots for part in _parts(whole, longest_s)):
        if current and shot.end_s - current[0].start_s > longest_s:
            grouped.append(tuple(current))
            current = []
        current.append(shot)
    return [*grouped, tuple(current)] if current else grouped


def _parts(shot: Shot, longest_s: float) -> list[Shot]:
    edges = [shot.start_s]
    while shot.end_s - edges[-1] > longest_s:
        edges.append(shot.start_s + len(edges) * longest_s)
    edges.append(shot.end_s)
    return [Shot(begin, end) for begin, end in pairwise(edges) if end > begin]


def sample_times(shots: Sequence[Shot], frames_per_s: float = 1.0, most: int = MOST_FRAMES) -> list[float]:
    """Times at which a clip is looked at: uniform, one more in each shot they miss, at most `most`."""
    if not shots:
        return []
    if len(shots) >= most:
        step = len(shots) / most
        return [_middle(shots[int(index * step)]) for index in range(most)]
    begin, end = shots[0].start_s, shots[-1].end_s
    count = max(1, min(most, round((end - begin) * frames_per_s)))
    while True:
        times = [begin + (index + 0.5) * (end - begin) / count for index in range(count)]
        missed = [_middle(shot) for shot in shots if bisect_left(times, shot.end_s) == bisect_left(times, shot.start_s)]
        if len(times) + len(missed) <= most:
            return sorted({*times, *missed})
        count -= max(1, len(times) + len(missed) - most)
        if count < 1:
            return [_middle(shot) for shot in shots]


def _middle(shot: Shot) -> float:
    return (shot.start_s + shot.end_s) / 2


def overlap(interval: Interval, others: Sequence[Interval]) -> float:
    """Seconds of sorted, separate `others` within `interval`."""
    first = max(bisect_right(others, (interval[0],)) - 1, 0)
    total = 0.0
    for begin, end in others[first:]:
        if begin >= interval[1]:
            break
        total += max(0.0, min(end, interval[1]) - max(begin, interval[0]))
    return total
