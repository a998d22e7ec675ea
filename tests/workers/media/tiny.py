"""Tiny media made on the spot: a tone that begins at one second, frames whose colour tells their number."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

SOUND_S = 3.0
ONSET_S = 1.0


def tone(rate_hz: int, seconds: float = SOUND_S, onset_s: float = ONSET_S, channels: int = 1) -> np.ndarray:
    """[channels, N] float32: silence, then 440 Hz at half scale."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    wave = np.where(times >= onset_s, 0.5 * np.sin(2 * np.pi * 440 * times), 0).astype(np.float32)
    return np.repeat(wave[None], channels, axis=0)


def onset_s(samples: np.ndarray) -> float:
    """Second at which 16 kHz samples become loud."""
    return float(np.argmax(np.abs(samples.astype(np.int32)) > 3000)) / 16_000


class Writer:
    """Writes one file by PyAV: at most a sound and a video stream."""

    def __init__(self, path: Path, format: str, **options: Any) -> None:
        self.container = av.open(str(path), "w", format=format, options=options)

    def add_sound(self, codec: str, rate_hz: int, layout: str = "mono", **options: Any) -> Any:
        stream = self.container.add_stream(codec, rate=rate_hz, options=options)
        stream.layout = layout
        if codec == "wmav2":
            stream.codec_context.bit_rate = 128_000
        return stream

    def add_video(self, codec: str, width: int = 64, height: int = 48, fps: int = 10, **options: Any) -> Any:
        stream = self.container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = {"gif": "rgb8", "png": "rgb24", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        stream.codec_context.time_base = Fraction(1, fps)
        return stream

    def sound(self, stream: Any, wave: np.ndarray, start_s: float = 0.0) -> None:
        context = stream.codec_context
        context.open(strict=False)
        layout = stream.layout.name
        resampler = av.AudioResampler(context.format, layout, context.sample_rate, context.frame_size or 1024)
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(wave.T).reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate, frame.pts = context.sample_rate, round(start_s * context.sample_rate)
        frame.time_base = Fraction(1, context.sample_rate)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            self.container.mux(stream.encode(part))
        self.container.mux(stream.encode(None))

    def video(self, stream: Any, pictures: list[np.ndarray], pts: list[int] | None = None) -> None:
        for index, picture in enumerate(pictures):
            frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts = index if pts is None else pts[index]
            frame.time_base = stream.codec_context.time_base
            self.container.mux(stream.encode(frame))
        self.container.mux(stream.encode(None))

    def close(self) -> None:
        self.container.close()


def plain_pictures(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Grey frames that get lighter one by one."""
    return [np.full((height, width, 3), 20 + 200 * index // max(count - 1, 1), np.uint8) for index in range(count)]
