"""Copies of a source in and out of the object store: they move, hear a cancel, and blame the right party."""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ParamValidationError, ReadTimeoutError

from omni_jobs.blobs import PART_BYTES, open_blobs
from omni_jobs.errors import SourceError, Unavailable
from omni_jobs.settings import Settings
from workers import snapshot
from workers.context import CancelledUnit


@pytest.fixture
def parts(tmp_path: Path) -> Any:
    settings = Settings(blob_url=f"file://{tmp_path}/blobs", file_roots=(tmp_path,), home=tmp_path / "home")
    return SimpleNamespace(settings=settings, blobs=open_blobs(settings))


@pytest.fixture
def large(tmp_path: Path) -> dict[str, Any]:
    """A source of three pieces and a bit."""
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(3 * PART_BYTES + 5))
    return {"uri": path.as_uri(), "size_bytes": path.stat().st_size}


def nothing(share: float) -> None:
    pass


def test_each_piece_of_a_copy_is_told(parts: Any, large: dict[str, Any], tmp_path: Path) -> None:
    shares: list[float] = []
    stored = snapshot.take(parts, large, "t/k", shares.append)
    assert len(shares) >= 4
    assert (shares, shares[-1]) == (sorted(shares), 1.0)
    shares.clear()
    source = large | {"snapshot": "t/k", "sha256": stored.sha256}
    with snapshot.fetch(parts, source, tmp_path / "back", shares.append) as file:
        assert file.read() == (tmp_path / "large.bin").read_bytes()
    assert len(shares) >= 24
    assert (shares, shares[-1]) == (sorted(shares), 1.0)


@pytest.mark.parametrize("way", ["take", "fetch"])
def test_a_copy_that_is_not_wanted_any_more_stops_at_the_next_piece(
    way: str, parts: Any, large: dict[str, Any], tmp_path: Path
) -> None:
    told: list[float] = []

    def cancel(share: float) -> None:
        told.append(share)
        raise CancelledUnit

    if way == "take":
        with pytest.raises(CancelledUnit):
            snapshot.take(parts, large, "t/k", cancel)
    else:
        stored = snapshot.take(parts, large, "t/k", nothing)
        with pytest.raises(CancelledUnit):
            source = large | {"snapshot": "t/k", "sha256": stored.sha256}
            snapshot.fetch(parts, source, tmp_path / "back", cancel)
    assert len(told) == 1


def test_a_fault_of_the_store_is_not_the_sources(parts: Any, large: dict[str, Any]) -> None:
    def full(key: str, data: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    parts.blobs = SimpleNamespace(put=full)
    with pytest.raises(OSError, match="No space left"):
        snapshot.take(parts, large, "t/k", nothing)


def client_error(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")  # type: ignore[typeddict-item]


Raising = Callable[..., Any]


def from_bucket(parts: Any, monkeypatch: pytest.MonkeyPatch, get_object: Raising) -> None:
    monkeypatch.setattr(snapshot, "s3_client", lambda settings: SimpleNamespace(get_object=get_object))
    snapshot.take(parts, {"uri": "s3://bucket/a.wav"}, "t/k", nothing)


@pytest.mark.parametrize(
    ("code", "status", "retryable"),
    [
        ("AccessDenied", 403, False),
        ("NoSuchBucket", 404, False),
        ("NoSuchKey", 404, False),
        ("InvalidObjectState", 403, False),
        ("ExpiredToken", 400, True),
    ],
)
def test_what_a_bucket_refuses_is_refused_for_good_where_asking_again_is_no_use(
    code: str, status: int, retryable: bool, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_object(**_: str) -> None:
        raise client_error(code, status)

    with pytest.raises(SourceError, match=r"s3://bucket/a\.wav") as caught:
        from_bucket(parts, monkeypatch, get_object)
    assert (caught.value.type, caught.value.problem.retryable) == ("unreadable", retryable)


def test_a_bucket_that_cannot_be_named_so_is_refused_for_good(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_object(**_: str) -> None:
        raise ParamValidationError(report="Invalid bucket name")

    with pytest.raises(SourceError) as caught:
        from_bucket(parts, monkeypatch, get_object)
    assert not caught.value.problem.retryable


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://x"),
        client_error("SlowDown", 503),
        client_error("XMinioWeird", 500),
    ],
    ids=["away", "slow", "broken"],
)
def test_a_bucket_that_does_not_answer_costs_no_attempt(
    error: Exception, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_object(**_: str) -> None:
        raise error

    with pytest.raises(Unavailable):
        from_bucket(parts, monkeypatch, get_object)


def test_a_bucket_that_goes_away_while_it_is_read_costs_no_attempt(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Body(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise ReadTimeoutError(endpoint_url="http://x")

    with pytest.raises(Unavailable, match="does not answer"):
        from_bucket(parts, monkeypatch, lambda **_: {"ContentLength": 5, "Body": Body()})
