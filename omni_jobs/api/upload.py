"""Multipart bodies, straight into the blob store: the handler parses, a thread writes, a short queue lies between.

Memory is the queue and a part of the store's, whatever the size of the file. Whoever leaves before the end leaves
nothing behind: the writer is told and its object is deleted.
"""

import asyncio
import io
import queue
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from omni_jobs.api.problems import Malformed, TooLarge
from omni_jobs.blobs import Stored
from omni_jobs.errors import OmniError, UsageError

QUEUE_PIECES = 32
PIECE_BYTES = 1 << 16
MAX_FIELD_BYTES = 1 << 20
FULL_WAIT_S = 0.002


class Gone(OmniError):
    """The one who sent this has left, or sent something that ends it."""


class Pipe(io.RawIOBase):
    """What the handler feeds and the writer reads. `feed` never blocks the event loop, `readinto` blocks its thread."""

    def __init__(self) -> None:
        self._pieces: queue.Queue[bytes | None] = queue.Queue(QUEUE_PIECES)
        self._rest = memoryview(b"")
        self._broken = False
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest and not self._ended:
            if self._broken:
                raise Gone("the upload was broken off")
            try:
                piece = self._pieces.get(timeout=0.5)
            except queue.Empty:
                continue
            if piece is None:
                self._ended = True
            else:
                self._rest = memoryview(piece)
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken

    async def feed(self, piece: bytes | None, writer: asyncio.Future[Stored]) -> None:
        """Hand on a piece, or None for the end; returns at once when the writer has failed."""
        while not writer.done():
            try:
                return self._pieces.put_nowait(piece)
            except queue.Full:
                await asyncio.sleep(FULL_WAIT_S)

    def break_off(self) -> None:
        self._broken = True


@dataclass(slots=True)
class Form:
    """What came: the file, stored, with the name it was sent under, and the other fields."""

    stored: Stored | None = None
    filename: str = ""
    fields: dict[str, bytes] = field(default_factory=dict)


class Upload:
    """Reads one multipart/form-data body.

    Args:
        keep: writes what it reads from a file object to the store; called in a thread of `writers`.
        check: called with each field that is not the file once it is whole, and may raise.
    """

    FIELDS = ("request", "attach")

    def __init__(
        self,
        content_type: str,
        *,
        max_bytes: int,
        keep: Callable[[BinaryIO], Stored],
        writers: Executor,
        check: Callable[[str, bytes], None],
    ) -> None:
        _, parameters = parse_options_header(content_type)
        boundary = parameters.get(b"boundary")
        if not boundary:
            raise Malformed("expected a boundary in the Content-Type of multipart/form-data")
        self._max_bytes, self._keep, self._writers, self._check = max_bytes, keep, writers, check
        self._form = Form()
        self._header = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._value = bytearray()
        # Pieces of the file that the parser found in what it was given last.
        self._found: list[bytes | None] = []
        self._file_bytes = 0
        self._complete = False
        self._pipe: Pipe | None = None
        self._writer: asyncio.Future[Stored] | None = None
        try:
            self._parser = MultipartParser(boundary, self._callbacks())  # type: ignore[arg-type]
        except FormParserError as error:
            raise Malformed(f"the multipart boundary cannot be used: {error}") from error

    async def read(self, body: AsyncIterator[bytes]) -> Form:
        """
        Raises:
            UsageError: malformed, a field we do not know or that `check` refuses, too large.
            Unavailable: the store failed.
        """
        try:
            async for data in body:
                for start in range(0, len(data), PIECE_BYTES):
                    await self._parse(data[start : start + PIECE_BYTES])
            if not self._complete:
                raise Malformed("the multipart body ends before its last boundary")
            if self._writer is not None:
                self._form.stored = await self._writer
            return self._form
        except BaseException:
            await self._give_up()
            raise

    async def _parse(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise Malformed(f"the multipart body cannot be read: {error}") from error
        found, self._found = self._found, []
        for piece in found:
            if self._pipe is None or self._writer is None:
                self._pipe = Pipe()
                reader = cast(BinaryIO, io.BufferedReader(self._pipe, PIECE_BYTES))
                self._writer = asyncio.get_running_loop().run_in_executor(self._writers, self._keep, reader)
            await self._pipe.feed(piece, self._writer)
        if self._writer is not None and self._writer.done():
            # It ended before its time: say why.
            self._writer.result()

    async def _give_up(self) -> None:
        """Stop the writer, and wait for it, so that nobody writes what is about to be deleted."""
        if self._pipe is not None and self._writer is not None:
            self._pipe.break_off()
            await asyncio.shield(asyncio.wait([self._writer]))
            self._writer.exception()

    def _callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._keep_header,
            "on_headers_finished": self._name_part,
            "on_part_data": self._take,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._headers.clear()
        self._value.clear()

    def _keep_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _name_part(self) -> None:
        _, parameters = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        self._name = parameters.get(b"name", b"").decode("utf-8", "replace")
        if self._name == "file":
            if self._file_bytes or self._pipe is not None or self._found:
                raise UsageError("expected one field `file`, got two", pointer="/file")
            self._form.filename = parameters.get(b"filename", b"").decode("utf-8", "replace")
            # An empty file, too, is one that came.
            self._found.append(b"")
        elif self._name not in self.FIELDS:
            known = "`, `".join(("file", *self.FIELDS))
            raise UsageError(f"unknown field {self._name!r}; there are `{known}`", pointer=f"/{self._name}")
        elif self._name in self._form.fields:
            raise UsageError(f"expected one field `{self._name}`, got two", pointer=f"/{self._name}")

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self._file_bytes += end - start
            if self._file_bytes > self._max_bytes:
                raise TooLarge(f"a file may have {self._max_bytes} bytes, this one has more")
            self._found.append(data[start:end])
            return
        if len(self._value) + end - start > MAX_FIELD_BYTES:
            raise TooLarge(f"the field `{self._name}` may have {MAX_FIELD_BYTES} bytes")
        self._value += data[start:end]

    def _end(self) -> None:
        if self._name == "file":
            self._found.append(None)
            return
        self._form.fields[self._name] = bytes(self._value)
        self._check(self._name, bytes(self._value))

    def _finish(self) -> None:
        self._complete = True
