"""Decodes the frames shown at given times of all clips in one pass, and as little else as possible.

Packets are looked at a group of pictures at a time: a group without a wanted time is not decoded, nor what
follows the last wanted frame of one, nor frames in between that no other frame needs.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import av.packet
from av.video.reformatter import VideoReformatter

from workers.media.inside import containers
from workers.media.inside.clock import Clock
from workers.media.inside.pictures import upright
from workers.media.inside.scan import nothing, open_video
from workers.media.wire import Message

LONGEST_GROUP = 1500
EPSILON_S = 1e-6


def run(source: BinaryIO, params: dict[str, Any]) -> Iterator[Message]:
    """`frame` messages (clip, time_s, width_px, height_px; RGB rows): each distinct frame shown at a clip's times.

    `clips` are lists of times, in order: what is wanted of a clip comes before anything of the next.
    """
    container = containers.opened(source)
    stream = open_video(container, params["threads"])
    clock, shrink = Clock(container, stream), VideoReformatter()
    ratio = float(stream.sample_aspect_ratio or 1)
    wanted = Wanted(params["clips"])
    shown: Any = None
    packets = containers.Packets(container, stream)
    for frame in _frames(container, stream, clock, packets, wanted):
        time_s = clock.time_s(frame)
        if time_s is None:
            continue
        if shown is not None:
            yield from _messages(wanted.before(time_s), shown, params["longest_px"], ratio, shrink)
        if not wanted:
            return
        shown = (time_s, frame)
    if shown is None:
        raise nothing(packets.count, packets.broken)
    yield from _messages(wanted.before(float("inf")), shown, params["longest_px"], ratio, shrink)


class Wanted:
    """The times at which somebody looks, in order, less those that were served; false when there are none left."""

    def __init__(self, clips: Sequence[Sequence[float]]) -> None:
        pairs = sorted((float(time), clip) for clip, times in enumerate(clips) for time in times)
        self._times = [time for time, _ in pairs]
        self._clips = [clip for _, clip in pairs]
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._times)

    @property
    def first(self) -> float:
        return self._times[self._at]

    @property
    def last(self) -> float:
        return self._times[-1]

    def before(self, time_s: float) -> list[int]:
        """Serve all times before this one; returns the clips that they are of, each once."""
        end = bisect_left(self._times, time_s - EPSILON_S, self._at)
        served = list(dict.fromkeys(self._clips[self._at : end]))
        self._at = end
        return served

    def within(self, start_s: float, end_s: float) -> list[float]:
        """Times from `start_s` to before `end_s`."""
        return self._times[bisect_left(self._times, start_s, self._at) : bisect_left(self._times, end_s, self._at)]


def _messages(
    clips: list[int], shown: tuple[float, Any], longest_px: int, ratio: float, shrink: VideoReformatter
) -> Iterator[Message]:
    """The frame, once for each clip that wants it."""
    if not clips:
        return
    array = upright(shown[1], longest_px, ratio, shrink)
    head = {"time_s": shown[0], "width_px": array.shape[1], "height_px": array.shape[0]}
    for clip in clips:
        yield Message("frame", {"clip": clip, **head}, array.reshape(-1).data)


def _frames(container: Any, stream: Any, clock: Clock, packets: containers.Packets, wanted: Wanted) -> Iterator[Any]:
    """Decoded frames in order, with those of no interest left out where that is safe."""
    if containers.demuxer(container) in containers.DISCONTINUOUS:
        for packet in packets:
            yield from containers.decoded(stream, packet) or []
        return
    context = stream.codec_context
    resting = False
    for group, next_s in _groups(packets, clock):
        if not wanted:
            return
        picked = _picked(group, next_s, clock, wanted)
        if picked is None:  # nothing is wanted here
            if not resting:
                yield from containers.decoded(stream, av.packet.Packet()) or []
                context.flush_buffers()
                resting = True
            continue
        resting = False
        for packet, needed in picked:
            context.skip_frame = "DEFAULT" if needed else "NONREF"
            yield from containers.decoded(stream, packet) or []
    if not resting:
        yield from containers.decoded(stream, av.packet.Packet()) or []


def _groups(packets: containers.Packets, clock: Clock) -> Iterator[tuple[list[Any], float | None]]:
    """Groups of packets that begin at a key frame, with the time of the next one."""
    group: list[Any] = []
    for packet in packets:
        if not packet.size:
            continue
        if group and (packet.is_keyframe or len(group) >= LONGEST_GROUP):
            known = packet.is_keyframe and group[0].is_keyframe
            yield group, clock.source_time_s(packet.pts) if known and packet.pts is not None else None
            group = []
        group.append(packet)
    if group:
        yield group, None


def _picked(group: list[Any], next_s: float | None, clock: Clock, wanted: Wanted) -> list[tuple[Any, bool]] | None:
    """The packets to decode and whether each is itself wanted; None if none is."""
    if any(packet.pts is None for packet in group):
        return [(packet, True) for packet in group]
    times = [clock.source_time_s(packet.pts) for packet in group]
    order = sorted(range(len(group)), key=times.__getitem__)
    rising = [times[index] for index in order]
    here = _wanted_here(rising[0], rising[-1], next_s, wanted)
    if not here and wanted.first >= rising[0]:
        return None
    targets = {order[0]} if wanted.first < rising[0] else set()
    for time in here:
        targets.add(order[max(bisect_right(rising, time + EPSILON_S) - 1, 0)])
    # Past this group's last frame, those that lead the next key frame may be meant: they need all of this one.
    last = len(group) - 1 if here and here[-1] >= rising[-1] else max(targets)
    return [(packet, index in targets) for index, packet in enumerate(group[: last + 1])]


def _wanted_here(first_s: float, last_s: float, next_s: float | None, wanted: Wanted) -> list[float]:
    """The wanted times for which a group of packets is needed; all after its end mean its last frame."""
    if next_s is not None:
        here = wanted.within(first_s - EPSILON_S, next_s - EPSILON_S)
        return here if here or not first_s <= wanted.first <= last_s else [wanted.first]
    here = wanted.within(first_s, last_s)
    return [*here, wanted.last] if wanted.last >= last_s or not here else here
