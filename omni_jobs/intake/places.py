"""Which sources a request may name: objects of buckets we read, and files below our file roots."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from omni_jobs.errors import UsageError
from omni_jobs.settings import Settings
from omni_jobs.store.database import NOT_STORABLE

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@dataclass(frozen=True, slots=True)
class ObjectPlace:
    bucket: str
    key: str


Place = ObjectPlace | Path


def allowed_place(uri: str, settings: Settings) -> Place:
    """Where a source lies, if requests may name it.

    Raises:
        UsageError: a scheme, bucket or path we do not read (`unsupported`), or nothing that could be read there.
    """
    if NOT_STORABLE.search(uri):
        raise UsageError("the URI holds characters that no path has", pointer="/uri")
    try:
        parts = urlsplit(uri)
        # Raises where the port is none.
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"expected a URI such as s3://bucket/key, got {uri!r}", pointer="/uri") from error
    match parts.scheme:
        case "s3":
            return _object(uri, settings)
        case "file":
            if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
                raise UsageError(f"expected file:///path, got {uri!r}", pointer="/uri")
            return allowed_file(unquote(parts.path), settings)
        case "http" | "https":
            raise UsageError(
                "http(s) sources are not fetched by this version: upload the file, or put it in a bucket and name s3://",
                pointer="/uri",
                kind="unsupported",
            )
        case _:
            raise UsageError(
                f"expected s3://bucket/key or file:///path, got {uri!r}", pointer="/uri", kind="unsupported"
            )


def allowed_file(path: str, settings: Settings) -> Path:
    """The file itself, links resolved, if it lies below a root. Who opens it later asks again.

    Raises:
        UsageError: outside of every root (whatever lies there), or not a file we can read.
    """
    if not settings.file_roots:
        raise UsageError(
            "file: sources are off: the server sets OMNI_FILE_ROOTS to the folders it reads",
            pointer="/uri",
            kind="unsupported",
        )
    if "\0" in path or not path.startswith("/") or ".." in path.split("/"):
        raise UsageError(f"expected an absolute path without '..', got {path!r}", pointer="/uri")
    try:
        found = Path(path).resolve()
        roots = [root.resolve() for root in settings.file_roots]
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path} cannot be followed: {error}", pointer="/uri") from error
    if not any(found.is_relative_to(root) for root in roots):
        raise UsageError(f"{path} does not lie below a folder of OMNI_FILE_ROOTS", pointer="/uri", kind="unsupported")
    try:
        mode = found.stat().st_mode
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", pointer="/uri") from error
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is not a file", pointer="/uri")
    if not os.access(found, os.R_OK):
        raise UsageError(f"{path} cannot be read: Permission denied", pointer="/uri")
    return found


def allowed_bucket(bucket: str, settings: Settings) -> None:
    """
    Raises:
        UsageError: neither our own bucket nor one of `s3_sources`.
    """
    if bucket not in (own_bucket(settings)[0], *settings.s3_sources) or not bucket:
        raise UsageError(
            f"bucket {bucket!r} is not read by this server: it would be named in OMNI_S3_SOURCES",
            pointer="/uri",
            kind="unsupported",
        )


def own_bucket(settings: Settings) -> tuple[str, str]:
    """Bucket and key prefix of our own objects; empty when those are files."""
    parts = urlsplit(settings.blob_url)
    if parts.scheme != "s3":
        return "", ""
    prefix = parts.path.strip("/")
    return parts.netloc, f"{prefix}/" if prefix else ""


def is_internal(bucket: str, key: str, settings: Settings) -> bool:
    """Whether an object is one we wrote for a job: snapshot, canonical media, result."""
    ours, prefix = own_bucket(settings)
    return bucket == ours and re.match(rf"{re.escape(prefix)}[^/]+/{UUID}/", key) is not None


def object_uri(bucket: str, key: str) -> str:
    """The URI of an object, which `allowed_place` reads back."""
    return f"s3://{bucket}/{quote(key)}"


def _object(uri: str, settings: Settings) -> ObjectPlace:
    parts = urlsplit(uri)
    key = unquote(parts.path.lstrip("/"))
    if parts.query or parts.fragment:
        raise UsageError(f"in s3://bucket/key, `?`, `#` and `%` of a key are percent-encoded: {uri!r}", pointer="/uri")
    if not parts.netloc or NOT_STORABLE.search(key) or not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise UsageError(f"expected s3://bucket/key, got {uri!r}", pointer="/uri")
    allowed_bucket(parts.netloc, settings)
    if is_internal(parts.netloc, key, settings):
        raise UsageError(f"{uri} belongs to a job and is no source", pointer="/uri", kind="unsupported")
    return ObjectPlace(parts.netloc, key)
