"""Reading objects for an answer: quickly or not at all, and never other bytes than were put.

An object is read to its end and compared with its row before the first byte is sent, in threads of its own: however
many callers wait for a store that hangs, the other routes have theirs.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

from omni_jobs.blobs import BlobStore
from omni_jobs.errors import Damaged, NotFound, Unavailable

READERS = 8
# How long a caller waits for one of them.
TURN_TIMEOUT_S = 5.0
# Larger objects wait on disk until they are sent.
MEMORY_BYTES = 4 << 20
PIECE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Reads:
    """Whoever reads objects for answers.

    Attributes:
        blobs: gives up after seconds, not minutes.
    """

    blobs: BlobStore
    readers: ThreadPoolExecutor
    turns: asyncio.Semaphore

    @classmethod
    def of(cls, blobs: BlobStore) -> "Reads":
        return cls(blobs, ThreadPoolExecutor(READERS, thread_name_prefix="read"), asyncio.Semaphore(READERS))

    async def verified(self, artifact: dict[str, Any]) -> Iterator[bytes]:
        """The bytes of an artifact in pieces, all of them read and found to be those of its row.

        Raises:
            Damaged: they are gone, or others.
            Unavailable: the store does not answer, or too many wait for it.
        """
        try:
            await asyncio.wait_for(self.turns.acquire(), TURN_TIMEOUT_S)
        except TimeoutError as error:
            raise Unavailable("the object store is slow: too many wait for it") from error
        reading = asyncio.get_running_loop().run_in_executor(self.readers, _read, self.blobs, artifact)
        # Whoever leaves gives the turn back only when the thread is free again.
        reading.add_done_callback(lambda _: self.turns.release())
        return _pieces(await asyncio.shield(reading))

    def close(self) -> None:
        self.readers.shutdown(wait=False, cancel_futures=True)


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
