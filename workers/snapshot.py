"""The bytes that are answered: copied once into the object store, and from there to a local file for the decoder.

Whatever happens to the original later, the snapshot is what is answered; its sha-256 is checked on each read.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from omni_jobs.blobs import Stored, s3_client
from omni_jobs.errors import ErrorType, NotFound, SourceError, Unavailable
from omni_jobs.settings import Settings
from workers.context import Parts


def take(parts: Parts, source: dict[str, Any], key: str, check: Callable[[], None]) -> Stored:
    """Copy a source named by URI into the object store.

    Raises:
        SourceError: it is gone, may not be read, changed while it was read, or is too large.
    """
    parts_of_uri = urlsplit(source["uri"])
    match parts_of_uri.scheme:
        case "file":
            return _from_file(parts, Path(unquote(parts_of_uri.path)), key)
        case "s3":
            return _from_bucket(parts, parts_of_uri.netloc, unquote(parts_of_uri.path.lstrip("/")), key)
        case other:
            raise SourceError(ErrorType.UNSUPPORTED, f"expected a file: or s3: source, got {other}:")


def _from_file(parts: Parts, path: Path, key: str) -> Stored:
    """Opened without following a link at its end, and below an allowed folder as it is found now."""
    try:
        real = path.resolve(strict=True)
        if not any(real.is_relative_to(root.resolve()) for root in parts.settings.file_roots):
            raise SourceError(ErrorType.UNSUPPORTED, f"{path} does not lie below OMNI_FILE_ROOTS")
        with open(os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise SourceError(ErrorType.UNSUPPORTED, f"expected a regular file, got another kind: {path}")
            _limit(before.st_size, parts.settings)
            stored = parts.blobs.put(key, file)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise SourceError(ErrorType.UNREADABLE, f"cannot read {path}: {error.strerror}") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or stored.size_bytes != after.st_size:
        raise SourceError(ErrorType.UNREADABLE, f"{path} changed while it was read", retryable=True)
    return stored


def _from_bucket(parts: Parts, bucket: str, key_of_source: str, key: str) -> Stored:
    client = s3_client(parts.settings)
    try:
        head = client.get_object(Bucket=bucket, Key=key_of_source)
    except client.exceptions.NoSuchKey as error:
        raise SourceError(ErrorType.UNREADABLE, f"no object s3://{bucket}/{key_of_source}") from error
    except client.exceptions.ClientError as error:
        code = error.response.get("Error", {}).get("Code", "an error")
        raise SourceError(
            ErrorType.UNREADABLE, f"cannot read s3://{bucket}/{key_of_source}: {code}", retryable=code not in ("403",)
        ) from error
    _limit(head["ContentLength"], parts.settings)
    stored = parts.blobs.put(key, head["Body"])
    if stored.size_bytes != head["ContentLength"]:
        raise Unavailable(f"s3://{bucket}/{key_of_source} was cut short")
    return stored


def _limit(size_bytes: int, settings: Settings) -> None:
    if size_bytes > settings.max_upload_bytes:
        raise SourceError(ErrorType.TOO_LARGE, f"expected at most {settings.max_upload_bytes} bytes, got {size_bytes}")


def fetch(parts: Parts, source: dict[str, Any], path: Path, check: Callable[[], None]) -> BinaryIO:
    """The snapshot as a local file, open for reading.

    Raises:
        SourceError: the object store gives other bytes than were put.
    """
    digest = hashlib.sha256()
    file = path.open("w+b")
    try:
        for piece in parts.blobs.open(source["snapshot"]):
            digest.update(piece)
            file.write(piece)
            check()
    except NotFound as error:
        file.close()
        raise SourceError(ErrorType.UNREADABLE, "the snapshot is no longer in the object store") from error
    except BaseException:
        file.close()
        raise
    file.flush()
    file.seek(0)
    if digest.hexdigest() != source["sha256"]:
        file.close()
        raise SourceError(ErrorType.UNREADABLE, "the object store gave other bytes than were put", retryable=True)
    return file
