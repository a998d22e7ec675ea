"""Decodes the frames shown at given times, and as little else as possible.

Packets are looked at a group of pictures at a time: a group without a wanted time is not decoded, nor what
follows the last wanted frame of one, nor frames in between that no other frame needs.
"""

from collections.abc import Iterator
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
    """A `frame` message (time_s, width_px, height_px; RGB rows) for each distinct frame shown at `times_s`."""
    container = containers.opened(source)
    stream = open_video(container, params["threads"])
    clock, shrink = Clock(container, stream), VideoReformatter()
    ratio = float(stream.sample_aspect_ratio or 1)
    wanted = sorted(params["times_s"])
    shown: Any = None
    packets = containers.Packets(container, stream)
    for frame in _frames(container, stream, clock, packets, wanted):
        time_s = clock.time_s(frame)
        if time_s is None:
            continue
        if shown is not None and wanted and wanted[0] < time_s - EPSILON_S:
            yield _message(shown, params["longest_px"], ratio, shrink)
            while wanted and wanted[0] < time_s - EPSILON_S:
                wanted.pop(0)
        if not wanted:
            return
        shown = (time_s, frame)
    if shown is None:
        raise nothing(packets.count, packets.broken)
    if wanted:
        yield _message(shown, params["longest_px"], ratio, shrink)


def _message(shown: tuple[float, Any], longest_px: int, ratio: float, shrink: VideoReformatter) -> Message:
    array = upright(shown[1], longest_px, ratio, shrink)
    head = {"time_s": shown[0], "width_px": array.shape[1], "height_px": array.shape[0]}
    return Message("frame", head, array.reshape(-1).data)


def _frames(
    container: Any, stream: Any, clock: Clock, packets: containers.Packets, wanted: list[float]
) -> Iterator[Any]:
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


def _picked(group: list[Any], next_s: float | None, clock: Clock, wanted: list[float]) -> list[tuple[Any, bool]] | None:
    """The packets to decode and whether each is itself wanted; None if none is."""
    if any(packet.pts is None for packet in group):
        return [(packet, True) for packet in group]
    times = [clock.source_time_s(packet.pts) for packet in group]
    if next_s is None:
        here = [time for time in wanted if time >= min(times)] or wanted[-1:]
    else:
        here = [time for time in wanted if min(times) - EPSILON_S <= time < next_s - EPSILON_S]
        if min(times) <= wanted[0] <= max(times) and not here:
            here = wanted[:1]
    if not here and not (wanted and wanted[0] < min(times)):
        return None
    order = sorted(range(len(group)), key=times.__getitem__)
    targets = {order[0]} if wanted[0] < min(times) else set()
    for time in here:
        before = [index for index in order if times[index] <= time + EPSILON_S]
        targets.add(before[-1] if before else order[0])
    # Past this group's last frame, those that lead the next key frame may be meant: they need all of this one.
    last = len(group) - 1 if any(time >= max(times) for time in here) else max(targets)
    return [(packet, index in targets) for index, packet in enumerate(group[: last + 1])]
