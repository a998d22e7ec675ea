"""Says what a container holds: its streams, and that at least one of them really decodes."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

from omni_jobs.errors import ErrorType, SourceError
from workers.media.inside import containers
from workers.media.inside.pictures import check, clockwise
from workers.media.wire import Message

MOST_PACKETS = 500
# A header that promises more than a day's worth of nothing per byte is checked against the packets.
LEAST_BITS_PER_S = 300
SMALL_BYTES = 64 << 20
TAGS = ("title", "artist", "album", "date", "comment")


def run(source: BinaryIO, params: dict[str, Any]) -> Iterator[Message]:
    container = containers.opened(source)
    zero = containers.origin(container)
    audio, video = containers.audio_stream(container), containers.video_stream(container)
    chosen = [stream for stream in (audio, video) if stream is not None]
    if not chosen:
        raise SourceError(ErrorType.UNSUPPORTED, "expected sound or video in a known codec, got a file with neither")
    packets = containers.Packets(container, *chosen)
    shown = _first_frames(packets, chosen)
    if not shown:
        raise _nothing(packets)
    ends = {stream.index: containers.promised_end(container, stream, zero, source) for stream in chosen}
    size_bytes = source.seek(0, 2)
    end_s = max((end for end in ends.values() if end), default=None) or _honest_end(container, zero, size_bytes)
    if end_s is None or size_bytes * 8 < LEAST_BITS_PER_S * end_s:
        seen = _seen_ends(containers.opened(source), chosen, zero)
        ends, end_s = seen, max(seen.values(), default=None)
    yield Message(
        "probe",
        {
            "container": _name(container),
            "duration_s": end_s,
            "audio": None if audio is None else _audio(audio, zero, ends[audio.index], end_s),
            "video": None if video is None else _video(video, zero, ends[video.index], end_s, shown.get(video.index)),
            "metadata": {tag: container.metadata[tag] for tag in TAGS if container.metadata.get(tag)},
        },
    )


def _first_frames(packets: containers.Packets, chosen: list[Any]) -> dict[int, Any]:
    """The first decoded frame of each stream; gives up on the second once the first is there."""
    shown: dict[int, Any] = {}
    for packet in packets:
        for frame in containers.decoded(packet.stream, packet) or []:
            shown.setdefault(packet.stream.index, frame)
        if len(shown) == len(chosen) or (shown and packets.count > MOST_PACKETS):
            break
    return shown


def _nothing(packets: containers.Packets) -> SourceError:
    if not packets.count and not packets.broken:
        return SourceError(ErrorType.EMPTY, "expected sound or video, got a container without samples")
    return SourceError(ErrorType.UNREADABLE, "expected sound or video that decodes, and no part of this file's does")


def _honest_end(container: Any, zero: Fraction, size_bytes: int) -> float | None:
    """The container's own length, unless it is only an estimate from the bit rate."""
    kind = containers.demuxer(container)
    if kind in ("mp3", "aac", "amr", "amrnb", "amrwb", "ac3", "eac3"):
        return None
    if kind == "mpeg" and size_bytes < SMALL_BYTES:  # the last clock of a short one may be its first
        return None
    return containers.container_end(container, zero)


def _seen_ends(container: Any, chosen: list[Any], zero: Fraction) -> dict[int, float]:
    """Where the last packet of each stream ends."""
    ends = {stream.index: 0.0 for stream in chosen}
    for packet in containers.Packets(container, *(container.streams[index] for index in ends)):
        if packet.pts is not None:
            end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base - zero)
            ends[packet.stream.index] = max(ends[packet.stream.index], end_s)
    return ends


def _name(container: Any) -> str:
    name = containers.demuxer(container)
    if name != "mov":
        return name
    return "mov" if container.metadata.get("major_brand", "qt").strip() == "qt" else "mp4"


def _span(stream: Any, zero: Fraction, end_s: float | None, whole_s: float | None) -> dict[str, Any]:
    begin = 0.0 if stream.start_time is None else max(float(stream.start_time * stream.time_base - zero), 0.0)
    end_s = end_s or whole_s
    return {"start_s": begin, "duration_s": None if end_s is None else max(end_s - begin, 0.0)}


def _audio(stream: Any, zero: Fraction, end_s: float | None, whole_s: float | None) -> dict[str, Any]:
    context = stream.codec_context
    language = stream.metadata.get("language", "")
    return {
        "codec": context.codec.canonical_name,
        "rate_hz": context.sample_rate,
        "channels": context.layout.nb_channels,
        "language": "" if language in ("und", "unk", "mul", "zxx") else language,
        **_span(stream, zero, end_s, whole_s),
    }


def _video(stream: Any, zero: Fraction, end_s: float | None, whole_s: float | None, frame: Any) -> dict[str, Any]:
    context = stream.codec_context
    check(context.width, context.height)
    rate = stream.average_rate or stream.guessed_rate
    return {
        "codec": context.codec.canonical_name,
        "width_px": context.width,
        "height_px": context.height,
        "fps": float(rate) if rate else None,
        "rotation": 0 if frame is None else clockwise(frame),
        **_span(stream, zero, end_s, whole_s),
    }
