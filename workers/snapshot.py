"""The bytes that are answered: copied once into the object store, and from there to a local file for the decoder.

Whatever happens to the original later, the snapshot is what is answered; its sha-256 is checked on each read.
"""

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from omni_jobs.blobs import Stored, s3_client
from omni_jobs.errors import ErrorType, NotFound, SourceError, Unavailable
from omni_jobs.settings import Settings
from workers.context import Parts

Tell = Callable[[float], None]  # told after each piece which share is done; what it raises ends the copy

# What S3 says where asking again is no use: refused, archived, not there.
FINAL = {
    "403",
    "404",
    "AccessDenied",
    "AllAccessDisabled",
    "InvalidBucketName",
    "InvalidObjectState",
    "KeyTooLongError",
    "NoSuchBucket",
    "NoSuchKey",
}
BUSY = {"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown"}


class Damaged(SourceError):
    """The object store does not give the bytes that were put."""


class Told(io.RawIOBase):
    """A reader of `size_bytes` that tells after each piece which share has gone by; `around` is entered for each."""

    def __init__(
        self,
        file: Any,
        size_bytes: int,
        tell: Tell,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._file, self._size_bytes, self._tell, self._around = file, max(size_bytes, 1), tell, around
        self._read_bytes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with self._around():
            data = self._file.read(size)
        self._read_bytes += len(data)
        self._tell(min(1.0, self._read_bytes / self._size_bytes))
        return data


def take(parts: Parts, source: dict[str, Any], key: str, tell: Tell) -> Stored:
    """Copy a source named by URI into the object store.

    Raises:
        SourceError: it is gone, may not be read, changed while it was read, or is too large.
        Unavailable: its bucket, or our store, does not answer.
    """
    parts_of_uri = urlsplit(source["uri"])
    match parts_of_uri.scheme:
        case "file":
            return _from_file(parts, Path(unquote(parts_of_uri.path)), key, tell)
        case "s3":
            return _from_bucket(parts, parts_of_uri.netloc, unquote(parts_of_uri.path.lstrip("/")), key, tell)
        case other:
            raise SourceError(ErrorType.UNSUPPORTED, f"expected a file: or s3: source, got {other}:")


def can_be_taken(source: dict[str, Any]) -> bool:
    """Whether the source lies where it can be read again; what was uploaded does not."""
    return urlsplit(source["uri"]).scheme in ("file", "s3")


def _from_file(parts: Parts, path: Path, key: str, tell: Tell) -> Stored:
    """Opened without following a link at its end, and below an allowed folder as it is found now."""

    @contextmanager
    def reading() -> Iterator[None]:
        """Around what touches the source alone: a fault of our store is not the source's."""
        try:
            yield
        except OSError as error:
            raise SourceError(ErrorType.UNREADABLE, f"cannot read {path}: {error.strerror}") from error

    with reading():
        real = path.resolve(strict=True)
        if not any(real.is_relative_to(root.resolve()) for root in parts.settings.file_roots):
            raise SourceError(ErrorType.UNSUPPORTED, f"{path} does not lie below OMNI_FILE_ROOTS")
        fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise SourceError(ErrorType.UNSUPPORTED, f"expected a regular file, got another kind: {path}")
    with open(fd, "rb") as file:
        before = os.fstat(fd)
        _limit(before.st_size, parts.settings)
        stored = parts.blobs.put(key, Told(file, before.st_size, tell, reading))  # type: ignore[arg-type]
        after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or stored.size_bytes != after.st_size:
        raise SourceError(ErrorType.UNREADABLE, f"{path} changed while it was read", retryable=True)
    return stored


def _from_bucket(parts: Parts, bucket: str, key_of_source: str, key: str, tell: Tell) -> Stored:
    place = f"s3://{bucket}/{key_of_source}"

    @contextmanager
    def reading() -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise _refusal(place, error) from error
        except ParamValidationError as error:
            raise SourceError(ErrorType.UNREADABLE, f"cannot read {place}: no bucket or key is named so") from error
        except (BotoCoreError, OSError) as error:
            raise Unavailable(f"the bucket of {place} does not answer: {type(error).__name__}") from error

    with reading():
        head = s3_client(parts.settings).get_object(Bucket=bucket, Key=key_of_source)
    size_bytes = head["ContentLength"]
    _limit(size_bytes, parts.settings)
    stored = parts.blobs.put(key, Told(head["Body"], size_bytes, tell, reading))  # type: ignore[arg-type]
    if stored.size_bytes != size_bytes:
        raise Unavailable(f"{place} was cut short")
    return stored


def _refusal(place: str, error: ClientError) -> SourceError | Unavailable:
    code = error.response.get("Error", {}).get("Code", "an error")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in ("NoSuchKey", "404"):
        return SourceError(ErrorType.UNREADABLE, f"no object {place}")
    if code in BUSY or status >= 500:
        return Unavailable(f"the bucket of {place} answers {code}")
    return SourceError(ErrorType.UNREADABLE, f"cannot read {place}: {code}", retryable=code not in FINAL)


def _limit(size_bytes: int, settings: Settings) -> None:
    if size_bytes > settings.max_upload_bytes:
        raise SourceError(ErrorType.TOO_LARGE, f"expected at most {settings.max_upload_bytes} bytes, got {size_bytes}")


def fetch(parts: Parts, source: dict[str, Any], path: Path, tell: Tell) -> BinaryIO:
    """The snapshot as a local file, open for reading.

    Raises:
        Damaged: the object store gives other bytes than were put, or none.
    """
    digest = hashlib.sha256()
    size_bytes = max(source["size_bytes"], 1)
    file = path.open("w+b")
    try:
        for piece in parts.blobs.open(source["snapshot"]):
            digest.update(piece)
            file.write(piece)
            tell(min(1.0, file.tell() / size_bytes))
        file.flush()
        file.seek(0)
        if digest.hexdigest() != source["sha256"]:
            raise Damaged(ErrorType.UNREADABLE, "the object store gave other bytes than were put", retryable=True)
    except NotFound as error:
        file.close()
        raise Damaged(ErrorType.UNREADABLE, "the snapshot is no longer in the object store") from error
    except BaseException:
        file.close()
        raise
    return file
