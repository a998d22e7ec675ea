"""Decodes one sound stream to 16 kHz mono PCM with true times.

Batches of about a second are averaged over channels in numpy (any layout) and resampled by libswresample. Where the
channels cancel each other (one is inverted), the loudest of them is taken instead of their mean.
Where timestamps jump, a new run begins at its own place; what lies between is silence nobody has to send.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from omni_jobs.errors import ErrorType, SourceError
from workers.media.gaps import Gap, merge, missing_tail, within
from workers.media.inside import containers
from workers.media.wire import Message

RATE_HZ = 16_000
SEND_SAMPLES = 10 * RATE_HZ
# Millisecond timestamps and encoders' slips move by less than this; it is no pause.
JITTER_S = 0.06
LONGEST_JUMP_S = 3600
LONGEST_S = 48 * 3600
# PyAV 18 reads one plane too many of a planar frame with eight channels, and crashes.
MOST_PLANES = 8
# Channels cancel each other where their mean has less than this part of the loudest one's power (20 dB).
CANCELLED = 0.01
LEAST_LEVEL = 1e-8  # power below which nobody speaks (-80 dB)
RUN_UP_S = 1.0  # decoded before a requested start, so that the codec has settled


def run(source: BinaryIO, params: dict[str, Any]) -> Iterator[Message]:
    """`pcm` messages (at: sample index from `start_s`) and `end` (start_s, samples, gaps)."""
    container = containers.opened(source)
    stream = containers.audio_stream(container)
    if stream is None:
        raise no_audio(container)
    zero = containers.origin(container)
    wanted = (params["start_s"], params["end_s"])
    # Floats from here on: a double holds a day to 1e-11 s, and Fractions cost as much as the decoding.
    zero_s, tick_s = float(zero), float(stream.time_base)
    promised = containers.promised_end(container, stream, zero, source)
    track = Track(wanted, containers.container_end(container, zero), containers.demuxer(container))
    packets = containers.Packets(container, stream)
    refused, enough = 0, False
    for packet in packets:
        begins_s = None if packet.pts is None else packet.pts * tick_s - zero_s + track.shift_s
        if begins_s is not None:
            if wanted[1] is not None and begins_s > wanted[1] + RUN_UP_S:
                enough = True
                break
            if begins_s < wanted[0] - RUN_UP_S and packet.size:
                continue
        frames = containers.decoded(stream, packet)
        if frames is None:
            refused += 1
            track.damaged = True
            continue
        for frame in frames:
            yield from track.add(None if frame.pts is None else frame.pts * tick_s - zero_s, frame)
    yield from track.close()
    if not track.first_s_known:
        raise _nothing(packets, refused, wanted)
    if track.damaged:  # after the last good frame
        promised = promised or containers.container_end(container, zero)
    tail = None if enough else missing_tail(track.until_s, promised, asked_s=wanted[1])
    gaps = within(merge([*track.gaps, *([tail] if tail else [])]), wanted[1])
    rows = [[gap.start_s, gap.end_s, gap.reason] for gap in gaps]
    head = {"start_s": track.base_s, "samples": track.written, "gaps": rows, "one_channel_s": track.one_channel_s}
    yield Message("end", head)


def no_audio(container: Any) -> SourceError:
    if any(stream.type == "audio" for stream in container.streams):
        return SourceError(ErrorType.UNSUPPORTED, "expected sound in a known codec, got one that no decoder here knows")
    return SourceError(ErrorType.NO_AUDIO, "expected sound, got a file without a sound stream")


def _nothing(packets: containers.Packets, refused: int, wanted: tuple[float, float | None]) -> SourceError:
    if refused or packets.broken:
        return SourceError(ErrorType.UNREADABLE, "expected sound that decodes, and no part of this file's does")
    if packets.count and wanted != (0, None):
        end = "the end" if wanted[1] is None else f"{wanted[1]:g} s"
        return SourceError(ErrorType.EMPTY, f"expected sound between {wanted[0]:g} s and {end}, got none there")
    return SourceError(ErrorType.EMPTY, "expected sound, got a container without samples")


class Track:
    """Places decoded frames on the source's timeline.

    Attributes:
        base_s: where sample 0 of the output lies in the source.
        until_s: where the decoded sound ends so far.
        written: samples from `base_s` to the end of what was sent.
        shift_s: added to timestamps after a jump that is not believed.
        damaged: something was refused since the last good frame.
        one_channel_s: seconds of which one channel was taken, because the mean of all is next to nothing.
    """

    def __init__(self, wanted: tuple[float, float | None], ends_s: float | None, kind: str) -> None:
        self._wanted, self._ends_s, self._kind = wanted, ends_s, kind
        self._batch = Batch()
        self._resampler: AudioResampler | None = None
        self._rate_hz = 0
        self._run_begin_s = 0.0  # source time of the run's first sample
        self._run_samples = 0  # at the source's rate
        self._at = 0  # output index of the next resampled sample
        self._ready: list[NDArray[np.int16]] = []
        self._ready_samples = 0
        self.first_s_known = False
        self.base_s = 0.0
        self.until_s = 0.0
        self.written = 0
        self.shift_s = 0.0
        self.damaged = False
        self.one_channel_s = 0.0
        self.gaps: list[Gap] = []

    def add(self, time_s: float | None, frame: AudioFrame) -> Iterator[Message]:
        if not frame.samples or not frame.sample_rate:
            return
        array = planar(frame)
        if not self.first_s_known:
            self._begin(max(time_s or 0.0, -1.0), frame.sample_rate)
        expected_s = self._run_begin_s + self._run_samples / self._rate_hz
        now_s = expected_s if time_s is None else time_s + self.shift_s
        if now_s - expected_s > JITTER_S:
            yield from self._jump(expected_s, now_s, frame.sample_rate)
        elif expected_s - now_s > JITTER_S:
            if expected_s - now_s > 1:
                self.shift_s += expected_s - now_s
            else:
                array = array[:, int((expected_s - now_s) * frame.sample_rate) :]
        self.damaged = False
        if frame.sample_rate != self._rate_hz:
            yield from self._new_run(expected_s, frame.sample_rate)
        self._run_samples += array.shape[1]
        self.until_s = self._run_begin_s + self._run_samples / self._rate_hz
        if self.until_s > LONGEST_S:
            raise SourceError(ErrorType.TOO_LARGE, f"expected at most {LONGEST_S // 3600} h of sound, got more")
        self._batch.add(array)
        if self._batch.samples >= self._rate_hz:
            yield from self._resample()

    def close(self) -> Iterator[Message]:
        if self.first_s_known:
            yield from self._end_run()
            yield from self._send(everything=True)

    def _begin(self, time_s: float, rate_hz: int) -> None:
        self.first_s_known = True
        self.base_s = max(time_s, float(self._wanted[0]), 0.0)
        if self.damaged and time_s - self._wanted[0] > JITTER_S:
            self.gaps.append(Gap(float(self._wanted[0]), time_s, "damaged"))
        self._start_run(time_s, rate_hz)

    def _jump(self, expected_s: float, now_s: float, rate_hz: int) -> Iterator[Message]:
        if not self._believable(expected_s, now_s):
            self.shift_s -= now_s - expected_s
            return
        start_s, end_s = max(expected_s, self.base_s), now_s
        if end_s > start_s and (self.damaged or end_s - start_s > 0.5):
            self.gaps.append(Gap(start_s, end_s, "damaged" if self.damaged else "hole"))
        yield from self._new_run(now_s, rate_hz)

    def _believable(self, expected_s: float, now_s: float) -> bool:
        if self._kind in containers.DISCONTINUOUS:
            return now_s - expected_s < 10
        if self._ends_s is not None:
            return now_s < self._ends_s + 5
        return now_s - expected_s < LONGEST_JUMP_S

    def _new_run(self, time_s: float, rate_hz: int) -> Iterator[Message]:
        yield from self._end_run()
        yield from self._send(everything=True)
        self._start_run(time_s, rate_hz)

    def _start_run(self, time_s: float, rate_hz: int) -> None:
        self._run_begin_s, self._run_samples, self._rate_hz = time_s, 0, rate_hz
        self._at = round((time_s - self.base_s) * RATE_HZ)
        self._resampler = AudioResampler(format="s16", layout="mono", rate=RATE_HZ)

    def _end_run(self) -> Iterator[Message]:
        yield from self._resample()
        if self._resampler is not None and self._run_samples:
            self._keep(self._resampler.resample(None))

    def _resample(self) -> Iterator[Message]:
        assert self._resampler is not None
        mono = self._batch.take()
        self.one_channel_s += self._batch.alone / self._rate_hz
        if len(mono):
            frame = AudioFrame.from_ndarray(mono[None, :], format="flt", layout="mono")
            frame.sample_rate = self._rate_hz
            self._keep(self._resampler.resample(frame))
        yield from self._send(everything=False)

    def _keep(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            samples = frame.to_ndarray().reshape(-1).astype(np.int16, copy=False)
            self._ready.append(samples)
            self._ready_samples += len(samples)

    def _send(self, everything: bool) -> Iterator[Message]:
        if not self._ready_samples or (self._ready_samples < SEND_SAMPLES and not everything):
            return
        samples = np.concatenate(self._ready)
        at = self._at
        self._ready, self._ready_samples = [], 0
        self._at += len(samples)
        # Rounding, or a run that begins before the last one ended: what is there stays.
        skip = max(self.written - at, 0)
        end = None if self._wanted[1] is None else max(round((self._wanted[1] - self.base_s) * RATE_HZ) - at, 0)
        samples = samples[skip:end]
        if len(samples):
            self.written = at + skip + len(samples)
            yield Message("pcm", {"at": at + skip}, np.ascontiguousarray(samples).data)


class Batch:
    """Frames of one rate waiting to become mono: [channels, samples] in the source's sample format.

    Attributes:
        alone: samples of the batch last taken for which one channel stands.
    """

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []
        self._channel = 0
        self.samples = self.alone = 0

    def add(self, array: NDArray[Any]) -> None:
        self._arrays.append(array)
        self.samples += array.shape[1]

    def take(self) -> NDArray[np.float32]:
        """[N] float32 in -1..1, the mean of the channels or the loudest of them."""
        arrays, self._arrays, self.samples, self.alone = self._arrays, [], 0, 0
        parts: list[NDArray[np.float32]] = []
        while arrays:
            first = arrays[0]
            same = next(
                (i for i, a in enumerate(arrays) if a.shape[0] != first.shape[0] or a.dtype != first.dtype),
                len(arrays),
            )
            parts.append(self._mono(np.concatenate(arrays[:same], axis=1)))
            arrays = arrays[same:]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _mono(self, array: NDArray[Any]) -> NDArray[np.float32]:
        # One sample in eight tells; the rest is looked at only where it tells of silence that is none.
        if not _cancels(array[:, ::8]) or not _cancels(array):
            return _mean(array)
        # The channel of the batch before, if it is as loud: another may be its inverse, and a change would click.
        levels = _levels(array)
        if self._channel >= len(levels) or levels[self._channel] < levels.max() / 2:
            self._channel = int(levels.argmax())
        self.alone += array.shape[1]
        return _mean(array[self._channel :][:1])


def planar(frame: AudioFrame) -> NDArray[Any]:
    """[channels, samples], whatever the frame was."""
    if frame.format.is_planar and frame.layout.nb_channels >= MOST_PLANES:
        (frame,) = AudioResampler(format=frame.format.packed, layout=frame.layout).resample(frame)
    array = frame.to_ndarray()
    return array if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels).T


def _mean(array: NDArray[Any]) -> NDArray[np.float32]:
    """[N] float32 in -1..1 of [channels, N]."""
    if array.dtype.kind == "f":
        return np.nan_to_num(array.mean(axis=0, dtype=np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
    if array.dtype == np.uint8:
        return (array.mean(axis=0, dtype=np.float32) - 128.0) / 128.0
    scale = float(1 << (8 * array.dtype.itemsize - 1))
    return (array.mean(axis=0, dtype=np.float64) / scale).astype(np.float32)


def _levels(array: NDArray[Any]) -> NDArray[np.float64]:
    """[channels] mean power of each channel; full scale is 1."""
    return np.array([np.square(_mean(array[index : index + 1])).mean() for index in range(len(array))])


def _cancels(array: NDArray[Any]) -> bool:
    """Whether the mean of the channels is next to nothing against the loudest of them."""
    if len(array) < 2 or not array.size:
        return False
    loudest = float(_levels(array).max())
    return loudest > LEAST_LEVEL and float(np.square(_mean(array)).mean()) < CANCELLED * loudest
