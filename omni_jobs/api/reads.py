"""Reading objects for an answer: quickly or not at all, and never other bytes than were put.

An object is read to its end and compared with its row before the first byte is sent, in threads of its own: however
many callers wait for a store that hangs, the other routes have theirs. A store may hang on one damaged object alone: it
is asked for another then, and who asks for the damaged one again is answered at once.
"""

import asyncio
import hashlib
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Any
from weakref import WeakValueDictionary

from omni_jobs.blobs import BlobStore
from omni_jobs.errors import Damaged, NotFound, OmniError, Unavailable

READERS = 8
# How long a caller waits for one of them, and for another who reads the same object.
TURN_TIMEOUT_S = 8.0
# So long an object that was found damaged is not read again.
DAMAGED_FOR_S = 60.0
# Larger objects wait on disk until they are sent.
MEMORY_BYTES = 4 << 20
PIECE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Reads:
    """Whoever reads objects for answers.

    Attributes:
        blobs: gives up after seconds, not minutes.
        damaged: key -> until when it is taken for damaged, and why.
        locks: of the keys that are being read.
    """

    blobs: BlobStore
    readers: ThreadPoolExecutor
    turns: asyncio.Semaphore
    damaged: dict[str, tuple[float, str]] = field(default_factory=dict)
    locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    @classmethod
    def of(cls, blobs: BlobStore) -> "Reads":
        return cls(blobs, ThreadPoolExecutor(READERS, thread_name_prefix="read"), asyncio.Semaphore(READERS))

    async def verified(self, artifact: dict[str, Any]) -> Iterator[bytes]:
        """The bytes of an artifact in pieces, all of them read and found to be those of its row.

        Raises:
            Damaged: they are gone, or others.
            Unavailable: the store does not answer, or too many wait for it.
        """
        lock = self.locks.setdefault(artifact["key"], asyncio.Lock())
        await _in_turn(lock)
        try:
            return _pieces(await self._read(artifact))
        finally:
            lock.release()

    async def _read(self, artifact: dict[str, Any]) -> IO[bytes]:
        until, why = self.damaged.get(artifact["key"], (0.0, ""))
        if until > time.monotonic():
            raise Damaged(why)
        self.damaged.pop(artifact["key"], None)
        await _in_turn(self.turns)
        reading = asyncio.get_running_loop().run_in_executor(self.readers, _read, self.blobs, artifact)
        # Whoever leaves gives the turn back only when the thread is free again.
        reading.add_done_callback(lambda _: self.turns.release())
        try:
            return await asyncio.shield(reading)
        except Damaged as error:
            self.damaged[artifact["key"]] = (time.monotonic() + DAMAGED_FOR_S, str(error))
            raise

    def close(self) -> None:
        self.readers.shutdown(wait=False, cancel_futures=True)


async def _in_turn(turns: asyncio.Lock | asyncio.Semaphore) -> None:
    try:
        await asyncio.wait_for(turns.acquire(), TURN_TIMEOUT_S)
    except TimeoutError as error:
        raise Unavailable("the object store is slow: too many wait for it") from error


def _works(blobs: BlobStore, key: str) -> bool:
    """Whether the store takes an object and gives it back now."""
    probe = f"{key.partition('/')[0]}/.probe"
    try:
        blobs.put(probe, b"probe")
        return blobs.get(probe) == b"probe"
    except OmniError:
        return False


def _read(blobs: BlobStore, artifact: dict[str, Any]) -> IO[bytes]:
    file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115
    try:
        digest, size = hashlib.sha256(), 0
        for piece in blobs.open(artifact["key"]):
            digest.update(piece)
            size += len(piece)
            if size > artifact["size_bytes"]:
                break
            file.write(piece)
        if size != artifact["size_bytes"] or digest.hexdigest() != artifact["sha256"]:
            raise Damaged(f"the stored {artifact['name']} is damaged: its bytes are not those that were put")
        file.seek(0)
    except NotFound as error:
        file.close()
        raise Damaged(f"the stored {artifact['name']} is no longer in the object store") from error
    except Unavailable as error:
        file.close()
        if not _works(blobs, artifact["key"]):
            raise
        raise Damaged(f"the object store answers, but does not give the stored {artifact['name']}: {error}") from error
    except OSError as error:
        file.close()
        raise Unavailable(f"the API has no room to read {artifact['name']}: {error.strerror}") from error
    except BaseException:
        file.close()
        raise
    return file


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece
