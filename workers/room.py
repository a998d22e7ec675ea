"""Room on the host for decoded media: what waits for the engine, or is in it, lies in memory until its request ends.

A clip of 128 frames is 100 to 150 MB, so requests are not counted but weighed.
"""

import threading
from collections.abc import Callable

from omni_jobs.errors import Unavailable
from workers.engine.media import Decoded, Image, Sound, Video


class Room:
    """Any thread.

    Who asks for the first time waits while the room is full, so it may be exceeded by what is being decoded then: one
    request for each thread that decodes. Who is inside never waits, or two could wait for each other.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held: dict[str, int] = {}
        self._changed = threading.Condition()

    @property
    def held_bytes(self) -> int:
        return sum(self._held.values())

    def load(self, id: str, decode: Callable[[], Decoded]) -> Decoded:
        """One more medium of a request, decoded once there is room.

        Raises:
            Unavailable: the request has left meanwhile.
        """
        with self._changed:
            self._held.setdefault(id, 0)
            if not self._held[id]:
                self._changed.wait_for(lambda: id not in self._held or self.held_bytes < self._most_bytes)
            if id not in self._held:
                raise Unavailable("the request has ended")
        decoded = decode()
        with self._changed:
            if id not in self._held:
                raise Unavailable("the request has ended")
            self._held[id] += size_of(decoded)
        return decoded

    def leave(self, id: str) -> None:
        """The request has ended: what it held is free. One that holds nothing is no error."""
        with self._changed:
            if self._held.pop(id, None) is not None:
                self._changed.notify_all()


def size_of(decoded: Decoded) -> int:
    """Bytes of its pixels and samples; the features that the engine makes of samples are no larger."""
    match decoded:
        case Image(pixels):
            return pixels.nbytes
        case Sound(samples):
            return samples.nbytes
        case Video(frames, _, sound):
            return frames.nbytes + (sound.samples.nbytes if sound else 0)
