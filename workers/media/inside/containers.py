"""Opens sound and video, and says what source time is.

Only demuxers that never read another file are allowed (no playlists, no concat), and no protocol at all:
both lists are needed, each alone let a playlist through.
"""

import os
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.audio.codeccontext
import av.container
import av.error
import av.packet
import av.sidedata.sidedata
import av.stream

# av imports these when it meets such a stream, and by then the child can open nothing any more.
import av.subtitles.codeccontext
import av.subtitles.stream
import av.subtitles.subtitle
import av.video.codeccontext
import av.video.reformatter
from av.stream import Disposition

from omni_jobs.errors import ErrorType, SourceError

FORMATS = (
    "mov,mp4,matroska,webm,wav,w64,mp3,flac,ogg,aac,avi,mpegts,mpeg,aiff,caf,amr,amrnb,amrwb,asf,flv,ac3,eac3,mxf,gif"
)
OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
# Their timeline begins at 0 by definition, so a stream that starts at 0.5 s does so in source time.
BEGIN_AT_ZERO = ("mov", "matroska", "avi")
LONGEST_LEAD_S = 60
# Their timestamps jump when recordings are joined; a jump is no pause there.
DISCONTINUOUS = ("mpegts", "mpeg")
# Demuxers whose header names the length. Elsewhere it is an estimate, or the end that was seen.
PROMISING = ("mov", "matroska", "flac", "avi", "asf", "aiff", "caf", "w64", "wav", "mxf", "flv", "mp3")


def opened(source: BinaryIO) -> av.container.InputContainer:
    """The container, or why not.

    Raises:
        SourceError: unreadable.
    """
    try:
        source.seek(0)
        return av.open(source, mode="r", options=OPTIONS, metadata_errors="replace", buffer_size=1 << 18)
    except av.error.MemoryError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        raise SourceError(
            ErrorType.UNREADABLE,
            "expected sound, video, a picture or a PDF, and no reader recognises this file; "
            "it may be damaged, cut off, or of a kind that is not taken (playlists, text, archives)",
        ) from error


def demuxer(container: av.container.InputContainer) -> str:
    return container.format.name.split(",")[0]


def audio_stream(container: av.container.InputContainer) -> Any:
    """The default or first sound stream, or None."""
    return _chosen(list(container.streams.audio))


def video_stream(container: av.container.InputContainer) -> Any:
    """The default or first video stream, or None; a cover picture is none."""
    still = Disposition.attached_pic | Disposition.timed_thumbnails
    return _chosen([stream for stream in container.streams.video if not stream.disposition & still])


def _chosen(streams: list[Any]) -> Any:
    streams = [stream for stream in streams if stream.codec_context is not None]
    defaults = [stream for stream in streams if stream.disposition & Disposition.default]
    return next(iter(defaults or streams), None)


def origin(container: av.container.InputContainer) -> Fraction:
    """The timestamp that is second 0 of the source."""
    audio, video = (_begin(stream) for stream in (audio_stream(container), video_stream(container)))
    # Samples before 0 are the codec's run-up and are thrown away.
    begins = [begin for begin in (video, None if audio is None else max(audio, Fraction(0))) if begin is not None]
    begin = min(begins, default=Fraction(0))
    return Fraction(0) if demuxer(container) in BEGIN_AT_ZERO and 0 <= begin <= LONGEST_LEAD_S else begin


def _begin(stream: Any) -> Fraction | None:
    return None if stream is None or stream.start_time is None else stream.start_time * stream.time_base


def promised_end(container: av.container.InputContainer, stream: Any, zero: Fraction, source: BinaryIO) -> float | None:
    """Where this stream ends by what the header says, in source time; None if it says nothing to rely on."""
    kind = demuxer(container)
    if kind not in PROMISING or (kind == "mp3" and not _counts_frames(source)):
        return None
    if kind == "wav" and (seconds := _wav_seconds(source)) is not None:
        return seconds
    begin = _begin(stream) or Fraction(0)
    if stream.duration:
        return float(begin + stream.duration * stream.time_base - zero)
    return _tagged_end(stream.metadata.get("DURATION", ""))


def container_end(container: av.container.InputContainer, zero: Fraction) -> float | None:
    """The end of the longest stream by the header or by what the demuxer saw."""
    if not container.duration:
        return None
    begin = Fraction(container.start_time or 0, av.time_base)
    return float(begin + Fraction(container.duration, av.time_base) - zero)


def _tagged_end(text: str) -> float | None:
    """Matroska's DURATION tag of a stream: where its last packet ends."""
    match = re.match(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text)
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None


def _counts_frames(source: BinaryIO) -> bool:
    """Whether an MP3 begins with a header that counts its frames."""
    here = source.tell()
    try:
        source.seek(0)
        head = source.read(10)
        if head[:3] == b"ID3" and len(head) == 10:
            skip = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            source.seek(10 + skip)
        head = source.read(4096)
        return any(word in head for word in (b"Xing", b"Info", b"VBRI"))
    finally:
        source.seek(here)


def _wav_seconds(source: BinaryIO) -> float | None:
    """Seconds that a RIFF header promises beyond the end of the file; the demuxer keeps to what is there."""
    here = source.tell()
    try:
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        head = source.read(4096)
        form, data = head.find(b"fmt "), head.find(b"data")
        if head[:4] != b"RIFF" or form < 0 or data < 0:
            return None
        rate_bytes = int.from_bytes(head[form + 16 : form + 20], "little")
        promised = int.from_bytes(head[data + 4 : data + 8], "little")
        # Writers to a pipe put the largest number there.
        if not rate_bytes or promised >= 0x7FFFF000 or data + 8 + promised <= size:
            return None
        return promised / rate_bytes
    finally:
        source.seek(here)


class Packets:
    """The packets of some streams until the file ends or breaks.

    Attributes:
        count: packets with content so far.
        broken: the demuxer gave up before the end.
    """

    def __init__(self, container: av.container.InputContainer, *streams: Any) -> None:
        self._container, self._streams = container, streams
        self.count = 0
        self.broken = False

    def __iter__(self) -> Iterator[av.packet.Packet]:
        demuxed = iter(self._container.demux(*self._streams))
        while True:
            try:
                packet = next(demuxed)
            except StopIteration:
                return
            except av.error.MemoryError:
                raise
            except (av.error.FFmpegError, ValueError):
                self.broken = True
                yield from self._flush()
                return
            if packet.size:
                self.count += 1
            yield packet

    def _flush(self) -> Iterator[av.packet.Packet]:
        for stream in self._streams:
            packet = av.packet.Packet()
            packet.stream = stream
            yield packet


def decoded(stream: Any, packet: av.packet.Packet) -> list[Any] | None:
    """The frames of one packet; None if the decoder refuses it."""
    try:
        return stream.codec_context.decode(packet if packet.size else None)
    except av.error.EOFError:
        return []
    except av.error.MemoryError:
        raise
    except (av.error.FFmpegError, ValueError):
        return None
