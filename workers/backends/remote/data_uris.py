"""Canonical media as the `data:` URIs in which requests carry them."""

import base64
import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from workers.backends.asking.clips import period_ms
from workers.inputs import CanonicalAudio, Frame

Part = dict[str, object]
MP4_OPTIONS = {"crf": "18", "preset": "veryfast", "bf": "0"}  # without B-frames every reader counts frames alike


def audio_part(audio: CanonicalAudio) -> Part:
    """Sound as WAV."""
    return {"type": "audio_url", "audio_url": {"url": _uri("audio/wav", audio.to_bytes())}}


def image_part(jpeg: bytes) -> Part:
    return {"type": "image_url", "image_url": {"url": _uri("image/jpeg", jpeg)}}


def video_part(frames: Sequence[Frame]) -> Part:
    """Frames as a silent video in which the k-th is shown `k * period_ms(frames)` from its start."""
    return {"type": "video_url", "video_url": {"url": _uri("video/mp4", mp4_of(frames))}}


def mp4_of(frames: Sequence[Frame]) -> bytes:
    """H.264 in MP4, one picture for each frame, in the size of the first less an odd row or column."""
    buffer = io.BytesIO()
    first = Image.open(io.BytesIO(frames[0].jpeg))
    size = (max(2, first.width // 2 * 2), max(2, first.height // 2 * 2))
    rate = Fraction(1000, period_ms(frames))
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=MP4_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.thread_count = 1
        for number, frame in enumerate(frames):
            picture = Image.open(io.BytesIO(frame.jpeg)).convert("RGB")
            pixels = np.asarray(picture if picture.size == size else picture.resize(size))
            shown = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            shown.pts, shown.time_base = number, 1 / rate
            container.mux(stream.encode(shown))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
