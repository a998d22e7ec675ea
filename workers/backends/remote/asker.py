"""A unit's question as a request to whichever model server takes it."""

import asyncio
import math
from concurrent.futures import Executor

from omni_jobs.settings import Settings
from workers.backends.asking import reading
from workers.backends.asking.work import Question
from workers.backends.remote import wire
from workers.backends.remote.chat import Chat
from workers.backends.remote.data_uris import Part, audio_part, image_part, video_part
from workers.inputs import Canonical, CanonicalAudio, CanonicalClip, CanonicalPage

TYPICAL_S = 60.0  # of a question


class ServerAsker:
    """Asks the servers behind a `Chat`."""

    def __init__(self, chat: Chat, settings: Settings, executor: Executor) -> None:
        self._chat, self._settings, self._executor = chat, settings, executor

    async def ask(self, question: Question) -> str:
        as_video, media = self._settings.remote_video == "mp4", question.media
        loop = asyncio.get_running_loop()
        parts = await loop.run_in_executor(self._executor, lambda: parts_of(media, as_video=as_video))
        frames = len(media.frames) if as_video and isinstance(media, CanonicalClip) else 0
        model, most = self._settings.remote_model, question.most_tokens
        body = wire.body_of(model, question.prompt, parts, most_tokens=most, frames=frames)
        reply = await self._chat.ask(body, frames=frames)
        return reading.answer_of(reply.content)

    def share(self, unit_id: str, waited_s: float) -> float:
        """It creeps while an answer is waited for: that ends by its own time limit, and is no standstill."""
        return 1.0 - math.exp(-waited_s / TYPICAL_S)


def parts_of(media: Canonical | None, *, as_video: bool) -> list[Part]:
    """Content parts. Writing a video takes the CPU for a while.

    Args:
        as_video: a clip is one video, else a picture for each of its frames.
    """
    match media:
        case None:
            return []
        case CanonicalAudio():
            return [audio_part(media)]
        case CanonicalPage():
            return [image_part(media.jpeg)]
        case CanonicalClip():
            return [video_part(media.frames)] if as_video else [image_part(frame.jpeg) for frame in media.frames]
