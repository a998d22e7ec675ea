"""Decodes every frame once, at thumbnail size, and says how each differs from those before it."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from omni_jobs.errors import ErrorType, SourceError
from workers.media.gaps import merge, missing_tail
from workers.media.inside import containers
from workers.media.inside.clock import Clock
from workers.media.inside.pictures import check, clockwise
from workers.media.shots import THUMB_HEIGHT_PX, THUMB_WIDTH_PX, Comparer
from workers.media.wire import Message

BATCH = 128


def run(source: BinaryIO, params: dict[str, Any]) -> Iterator[Message]:
    """`frames` messages (times and rows of features) and `end`."""
    container = containers.opened(source)
    stream = open_video(container, params["threads"])
    # A thumbnail does not show whether blocks were smoothed.
    stream.codec_context.options = {"skip_loop_filter": "all"}
    clock, comparer, shrink = Clock(container, stream), Comparer(), VideoReformatter()
    packets = containers.Packets(container, stream)
    times: list[float] = []
    thumbs: list[np.ndarray] = []
    first: Any = None
    first_s = 0.0
    refused = 0
    for packet in packets:
        frames = containers.decoded(stream, packet)
        if frames is None:
            refused += 1
            clock.refused()
        for frame in frames or []:
            check(frame.width, frame.height)
            time_s = clock.time_s(frame)
            if time_s is None:
                continue
            if first is None:
                first, first_s = (frame.width, frame.height, clockwise(frame)), time_s
            small = shrink.reformat(
                frame,
                width=THUMB_WIDTH_PX,
                height=THUMB_HEIGHT_PX,
                format="rgb24",
                interpolation=Interpolation.AREA,
            )
            times.append(time_s)
            thumbs.append(small.to_ndarray())
            if len(thumbs) == BATCH:
                yield _batch(times, comparer.rows(np.stack(thumbs)))
                times, thumbs = [], []
    if thumbs:
        yield _batch(times, comparer.rows(np.stack(thumbs)))
    if first is None:
        raise nothing(packets.count, refused or packets.broken)
    promised = containers.promised_end(container, stream, containers.origin(container), source)
    tail = missing_tail(clock.until_s, promised)
    gaps = merge([*clock.gaps, *([tail] if tail else [])])
    yield Message(
        "end",
        {
            "width_px": first[0],
            "height_px": first[1],
            "rotation": first[2],
            "start_s": first_s,
            "end_s": clock.until_s,
            "gaps": [[gap.start_s, gap.end_s, gap.reason] for gap in gaps],
        },
    )


def open_video(container: Any, threads: int) -> Any:
    """The video stream, ready to decode.

    Raises:
        SourceError: there is none, or its frames are too large.
    """
    stream = containers.video_stream(container)
    if stream is None:
        if any(other.type == "video" and other.codec_context is None for other in container.streams):
            raise SourceError(ErrorType.UNSUPPORTED, "expected video in a known codec, got one no decoder here knows")
        raise SourceError(ErrorType.NO_VIDEO, "expected video, got a file without a video stream")
    context = stream.codec_context
    check(context.width, context.height)
    # Each thread holds frames of its own: large ones are decoded by fewer.
    context.thread_type = "AUTO"
    context.thread_count = max(1, min(threads, 66_000_000 // max(context.width * context.height, 1)))
    return stream


def nothing(packets: int, refused: object) -> SourceError:
    if packets or refused:
        return SourceError(ErrorType.UNREADABLE, "expected video that decodes, and no frame of this file does")
    return SourceError(ErrorType.EMPTY, "expected video, got a container without frames")


def _batch(times: list[float], rows: np.ndarray) -> Message:
    table = np.concatenate([np.array(times)[:, None], rows.astype(np.float64)], axis=1)
    return Message("frames", {"count": len(times)}, np.ascontiguousarray(table).data)
