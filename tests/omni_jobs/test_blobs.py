"""The object store in a folder."""

import errno
import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from omni_jobs.blobs import FileStore
from omni_jobs.errors import NotFound, Unavailable


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "blobs")


def test_a_put_goes_through_while_others_delete_what_lies_beside_it(store: FileStore) -> None:
    ended = threading.Event()

    def delete() -> None:
        while not ended.is_set():
            store.put("a/b/c/1", b"x")
            store.delete("a/b/c/1")

    others = [threading.Thread(target=delete) for _ in range(2)]
    for one in others:
        one.start()
    try:
        for number in range(300):
            store.put(f"a/b/c/mine{number}", b"y")
            assert store.get(f"a/b/c/mine{number}") == b"y"
            store.delete(f"a/b/c/mine{number}")
    finally:
        ended.set()
        for one in others:
            one.join()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_an_outage_that_is_named(store: FileStore, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match="no room left"):
            store.put("a", b"x")
    assert not [path for path in store._root.rglob("*") if path.is_file()]
    store.put("a", b"x")
    assert store.get("a") == b"x"


def test_what_the_file_system_refuses_is_an_outage(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("folder/a", b"x")
    for act in (lambda: store.get("folder"), lambda: store.get("folder/a/b"), lambda: store.get("none")):
        with pytest.raises(NotFound):
            act()

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "open", broken)
    monkeypatch.setattr("omni_jobs.blobs.open", broken, raising=False)
    for act in (lambda: store.get("folder/a"), lambda: next(store.open("folder/a"))):
        with pytest.raises(Unavailable, match="Input/output error"):
            act()


def test_what_the_source_raises_is_not_the_stores(store: FileStore) -> None:
    class Bad(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(errno.EIO, "bad sector")

    with pytest.raises(OSError, match="bad sector"):
        store.put("a", Bad())  # type: ignore[arg-type]
    assert list(store.list("")) == []


def test_a_list_is_below_its_prefix_in_order_and_a_delete_counts(store: FileStore) -> None:
    for key in ("b/2", "b/1", "b1", "a/x"):
        store.put(key, b"x")
    assert [one.key for one in store.list("b")] == ["b/1", "b/2", "b1"]
    assert [one.key for one in store.list("b/")] == ["b/1", "b/2"]
    assert (store.delete("b/"), store.delete("b/"), store.delete("b1"), store.delete("b1")) == (2, 0, 1, 0)
    assert [one.key for one in store.list("")] == ["a/x"]
