"""The object store: five verbs for `s3://bucket[/prefix]` and `file:///folder`.

Keys are ours: relative, without `//` and `..`. Uploads of unknown length go up in parts, so memory stays flat.
"""

import errno
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from omni_jobs.errors import NotFound, Unavailable, UsageError
from omni_jobs.settings import Settings

PART_BYTES = 8 * 2**20
# Of files that are being written.
DRAFT = ".put-"
MKDIR_TRIES = 100


@dataclass(frozen=True, slots=True)
class Stored:
    """What was put: size and sha-256 of the bytes that went by."""

    key: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Listed:
    key: str
    size_bytes: int
    version: str  # ETag, or mtime and size of a file


class BlobStore(Protocol):
    """Raises `NotFound` for a key that is not there and `Unavailable` when the store does not answer."""

    def put(self, key: str, data: bytes | BinaryIO, media_type: str = "application/octet-stream") -> Stored: ...

    def get(self, key: str) -> bytes: ...

    def open(self, key: str) -> Iterator[bytes]:
        """The bytes in pieces."""
        ...

    def list(self, prefix: str) -> Iterator[Listed]: ...

    def delete(self, prefix: str) -> int:
        """Delete a key, or everything below a prefix that ends with `/`; returns how many."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an S3 server is waited for: so often, so many seconds for a connection, so many for the next bytes."""

    attempts: int = 7
    connect_s: float = 5.0
    read_s: float = 60.0


# For whoever has somebody waiting for the answer.
SHORT = Patience(attempts=2, connect_s=2.0, read_s=3.0)


def open_blobs(settings: Settings, patience: Patience = Patience()) -> BlobStore:
    """The store named by `blob_url`.

    Raises:
        UsageError: not a URL of a store we know.
    """
    parts = urlsplit(settings.blob_url)
    match parts.scheme:
        case "s3" if parts.netloc:
            return S3Store(s3_client(settings, patience), parts.netloc, parts.path.strip("/"))
        case "file":
            return FileStore(Path(unquote(parts.path)))
        case _:
            raise UsageError(
                f"expected OMNI_BLOB_URL as s3://bucket/prefix or file:///folder, got {settings.blob_url!r}"
            )


def s3_client(settings: Settings, patience: Patience = Patience()) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint or None,
        aws_access_key_id=settings.s3_access_key or None,
        aws_secret_access_key=settings.s3_secret_key or None,
        region_name=settings.s3_region,
        config=Config(
            retries={"total_max_attempts": patience.attempts, "mode": "standard"},
            connect_timeout=patience.connect_s,
            read_timeout=patience.read_s,
            max_pool_connections=32,
            s3={"addressing_style": "path"} if settings.s3_endpoint else {},
        ),
    )


class Hashing(io.RawIOBase):
    """A reader that knows the sha-256 and length of what has been read from it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        self.size_bytes += len(data)
        return data

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class S3Store:
    """Objects of one bucket below a prefix."""

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:
        self.client, self.bucket = client, bucket
        self._prefix = f"{prefix}/" if prefix else ""
        # One thread a transfer: memory stays at a few parts.
        self._transfer = TransferConfig(
            multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, use_threads=False
        )

    def put(self, key: str, data: bytes | BinaryIO, media_type: str = "application/octet-stream") -> Stored:
        source = Hashing(io.BytesIO(data) if isinstance(data, bytes) else data)
        with _answering(key):
            self.client.upload_fileobj(
                source, self.bucket, self._prefix + key, ExtraArgs={"ContentType": media_type}, Config=self._transfer
            )
        return Stored(key, source.size_bytes, source.sha256)

    def get(self, key: str) -> bytes:
        with _answering(key):
            return self.client.get_object(Bucket=self.bucket, Key=self._prefix + key)["Body"].read()

    def open(self, key: str) -> Iterator[bytes]:
        with _answering(key):
            body = self.client.get_object(Bucket=self.bucket, Key=self._prefix + key)["Body"]
            yield from body.iter_chunks(1 << 20)

    def list(self, prefix: str) -> Iterator[Listed]:
        with _answering(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for one in page.get("Contents", ()):
                    yield Listed(one["Key"][len(self._prefix) :], one["Size"], one["ETag"].strip('"'))

    def delete(self, prefix: str) -> int:
        keys = [one.key for one in self.list(prefix)] if prefix.endswith("/") else [prefix]
        with _answering(prefix):
            for start in range(0, len(keys), 1000):
                objects = [{"Key": self._prefix + key} for key in keys[start : start + 1000]]
                self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
        return len(keys)


class FileStore:
    """Files below a folder; a put is a rename, so that nobody reads half of one."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _path(self, key: str) -> str:
        if not key or key.startswith("/") or ".." in key.split("/"):
            raise UsageError(f"expected a relative key without '..', got {key!r}")
        return f"{self._root}/{key}"

    def put(self, key: str, data: bytes | BinaryIO, media_type: str = "application/octet-stream") -> Stored:
        source = Hashing(io.BytesIO(data) if isinstance(data, bytes) else data)
        path = self._path(key)
        with _filed(key):
            part = _draft(os.path.dirname(path))
        try:
            # What the source raises is not the store's.
            while piece := source.read(PART_BYTES):
                with _filed(key):
                    part.write(piece)
            with _filed(key):
                part.flush()
                os.fsync(part.fileno())
                part.close()
                os.replace(part.name, path)
        except BaseException:
            with suppress(OSError):
                part.close()  # it tries once more to write what found no room
            with suppress(OSError):
                os.unlink(part.name)
            raise
        return Stored(key, source.size_bytes, source.sha256)

    def get(self, key: str) -> bytes:
        path = self._path(key)
        with _filed(key), open(path, "rb", buffering=0) as file:
            return file.read()

    def open(self, key: str) -> Iterator[bytes]:
        path = Path(self._path(key))
        with _filed(key):
            file = path.open("rb")
        with file:
            while True:
                with _filed(key):
                    piece = file.read(1 << 20)
                if not piece:
                    return
                yield piece

    def list(self, prefix: str) -> Iterator[Listed]:
        # Below the last whole folder of the prefix, not below everything.
        folder = self._root / prefix.rpartition("/")[0]
        # Folders that go meanwhile are passed over.
        found = [Path(at, name) for at, _, names in os.walk(folder) for name in names if not name.startswith(DRAFT)]
        for path in sorted(found):
            key = path.relative_to(self._root).as_posix()
            if key.startswith(prefix):
                try:
                    with _filed(key):
                        stat = path.stat()
                except NotFound:
                    continue
                yield Listed(key, stat.st_size, f"{stat.st_mtime_ns}-{stat.st_size}")

    def delete(self, prefix: str) -> int:
        if prefix.endswith("/"):
            count = sum(1 for _ in self.list(prefix))
            shutil.rmtree(self._path(prefix), ignore_errors=True)
        else:
            try:
                with _filed(prefix):
                    os.unlink(self._path(prefix))
                count = 1
            except NotFound:
                count = 0
        for parent in Path(self._path(prefix.rstrip("/"))).parents:
            if parent == self._root:
                break
            with suppress(OSError):
                parent.rmdir()
        return count


def _draft(folder: str) -> BinaryIO:
    """A new file in a folder, which whoever deletes the last object in it may remove at any moment."""
    for _ in range(MKDIR_TRIES):
        try:
            return open(f"{folder}/{DRAFT}{secrets.token_hex(8)}", "xb", opener=_private)
        except FileNotFoundError:
            # The one was there and the other went in between.
            with suppress(FileExistsError, FileNotFoundError):
                os.makedirs(folder, exist_ok=True)
    raise Unavailable(f"the folder {os.path.basename(folder)} of the object store goes away each time it is made")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def _filed(key: str) -> Iterator[None]:
    """Our own errors for what the file system says."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFound(f"no object {key}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("the object store is full: its disk has no room left") from error
        raise Unavailable(f"the object store does not take or give {key}: {error.strerror}") from error


@contextmanager
def _answering(key: str) -> Iterator[None]:
    """Our own errors for what boto3 raises."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in ("NoSuchKey", "404", "NotFound"):
            raise NotFound(f"no object {key}") from error
        raise Unavailable(f"the object store answered {code or 'an error'} for {key}") from error
    except BotoCoreError as error:
        raise Unavailable(f"the object store does not answer: {type(error).__name__}") from error
