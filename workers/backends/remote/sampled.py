"""How many frames of a video a server looks at: told by the tokens it counts for videos of known length.

vLLM takes 32 frames of any video unless it is told otherwise, and says nothing; what it left out would be described
all the same.
"""

import asyncio
import io
from collections.abc import Awaitable, Callable

import numpy as np
from PIL import Image

from workers.backends.remote import wire
from workers.backends.remote.data_uris import video_part
from workers.backends.remote.wire import Body, Reply
from workers.inputs import Frame
from workers.prompts import INSTRUCT, Prompt, Shape

REMEDY = (
    'start it with --media-io-kwargs \'{"video": {"fps": 2, "num_frames": 256}}\', or set OMNI_REMOTE_FRAMES to what '
    "it looks at, or OMNI_REMOTE_VIDEO=frames"
)
# Servers that drop redundant tokens keep a least number: so the measure is taken between two that lie above it.
FEW, MORE = 8, 16
SIDE_PX = 128


async def frames_seen(ask: Callable[[Body], Awaitable[Reply]], model: str, frames: int) -> float | None:
    """About how many frames it looks at of a video of so many; None when it does not count tokens.

    Raises:
        Unavailable, SourceError: as `ask` does.
    """
    if frames <= FEW:
        return float(frames)
    few, more, all_ = [await _tokens(ask, model, count) for count in (FEW, MORE, frames)]
    if few is None or more is None or all_ is None:
        return None
    each = (more - few) / (MORE - FEW)
    return FEW + (all_ - few) / each if each > 0 else float(FEW)


async def _tokens(ask: Callable[[Body], Awaitable[Reply]], model: str, count: int) -> int | None:
    prompt: Prompt[Shape] = Prompt("Describe this video.", 1, INSTRUCT)
    video = await asyncio.to_thread(lambda: video_part(pictures(count)))
    body = wire.body_of(model, prompt, [video], most_tokens=1, frames=count)
    return (await ask(body)).prompt_tokens


def pictures(count: int) -> list[Frame]:
    """Frames a second apart that differ from each other: a bar moves across them."""
    frames = []
    for number in range(count):
        pixels = np.full((SIDE_PX, SIDE_PX, 3), 40 + 160 * (number % 2), np.uint8)
        at = SIDE_PX * number // max(count, 1)
        pixels[:, at : at + SIDE_PX // 8] = (220, 60, 60)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        frames.append(Frame(float(number), buffer.getvalue()))
    return frames
