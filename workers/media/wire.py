"""How child and parent speak: a JSON head and a binary payload, framed by their lengths."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LENGTHS = struct.Struct("<IQ")
# A child that was taken over must not make the parent allocate what it likes.
MOST_HEAD_BYTES = 64 << 20
MOST_PAYLOAD_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Message:
    """One thing the child says."""

    kind: str
    head: dict[str, Any] = field(default_factory=dict)
    payload: bytes | bytearray | memoryview = b""

    def send(self, write: Callable[[bytes | memoryview], object]) -> None:
        head = json.dumps({"kind": self.kind, **self.head}, separators=(",", ":")).encode()
        payload = memoryview(self.payload)
        if payload.nbytes and (payload.ndim != 1 or payload.itemsize != 1):
            payload = payload.cast("B")
        write(LENGTHS.pack(len(head), payload.nbytes) + head)
        if payload.nbytes:
            write(payload)


class Inbox:
    """Bytes as they come, messages as they are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self) -> Message | None:
        """The next whole message, or None.

        Raises:
            ValueError: these bytes are not a message of ours.
        """
        if len(self._buffer) < LENGTHS.size:
            return None
        head_bytes, payload_bytes = LENGTHS.unpack_from(self._buffer)
        if head_bytes > MOST_HEAD_BYTES or payload_bytes > MOST_PAYLOAD_BYTES:
            raise ValueError(f"expected a message within its limits, got {head_bytes} and {payload_bytes} bytes")
        body, end = LENGTHS.size + head_bytes, LENGTHS.size + head_bytes + payload_bytes
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            head = json.loads(bytes(view[LENGTHS.size : body]))
            payload = bytes(view[body:end])
        del self._buffer[:end]
        if not isinstance(head, dict) or not isinstance(head.get("kind"), str):
            raise ValueError("expected a head with its kind")
        return Message(head.pop("kind"), head, payload)
