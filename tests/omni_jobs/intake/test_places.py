"""Which sources may be named."""

import os
import socket
from pathlib import Path

import pytest

from omni_jobs.errors import UsageError
from omni_jobs.intake.places import ObjectPlace, allowed_place, object_uri
from omni_jobs.settings import Settings


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """`root` may be read, `outside` may not."""
    for name in ("root/sub", "outside", "root-next"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("root/a b.mp4", "root/sub/c#1.pdf", "outside/secret", "root-next/d"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def settings_for(root: Path, **more: object) -> Settings:
    return Settings(home=root, file_roots=(root / "root",), blob_url="s3://omni/keep", s3_sources=("media",), **more)  # type: ignore[arg-type]


def test_files_below_a_root_are_found_by_their_uri(roots: Path) -> None:
    settings = settings_for(roots)
    for name in ("root/a b.mp4", "root/sub/c#1.pdf"):
        assert allowed_place((roots / name).as_uri(), settings) == (roots / name).resolve()
    (roots / "root" / "link").symlink_to(roots / "root" / "a b.mp4")
    assert allowed_place((roots / "root" / "link").as_uri(), settings) == (roots / "root" / "a b.mp4").resolve()


def test_links_dots_and_neighbours_lead_nowhere(roots: Path) -> None:
    (roots / "root" / "out").symlink_to(roots / "outside" / "secret")
    (roots / "root" / "folder").symlink_to(roots / "outside")
    (roots / "root" / "loop").symlink_to(roots / "root" / "loop")
    root = (roots / "root").as_uri()
    ends = ["/out", "/folder/secret", "/loop", "/../outside/secret", "/%2e%2e/outside/secret", "/sub/../a%20b.mp4"]
    others = [(roots / "outside/secret").as_uri(), "file:///etc/passwd", "file:/"]
    for uri in (*(root + end for end in (*ends, "-next/d")), *others):
        with pytest.raises(UsageError) as refused:
            allowed_place(uri, settings_for(roots))
        assert refused.value.pointer == "/uri"


def test_what_lies_outside_is_not_told(roots: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(UsageError) as refused:
            allowed_place(path.as_uri(), settings_for(roots))
        return str(refused.value).replace(str(path), "")

    assert said(roots / "outside/secret") == said(roots / "outside/none") == said(roots / "outside")


def test_only_regular_files_are_sources(roots: Path) -> None:
    root = roots / "root"
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "socket"))
    for path in (root / "fifo", root / "socket", root / "sub", root, root / "none"):
        with pytest.raises(UsageError):
            allowed_place(path.as_uri(), settings_for(roots))
    with pytest.raises(UsageError, match="not a file"):
        allowed_place("file:///dev/null", settings_for(roots).model_copy(update={"file_roots": (Path("/dev"),)}))


NOTHING = """file://host/root/a file:///a?b file:///a%00b file:a s3:// s3://media s3://media/ s3://media/a/ s3://media/a//b
    s3://media/../a s3://media/a?b s3://media/a#b s3://other/a http://[ x\ud800"""


@pytest.mark.parametrize("uri", NOTHING.split())
def test_nothing_else_is_a_source(roots: Path, uri: str) -> None:
    with pytest.raises(UsageError):
        allowed_place(uri, settings_for(roots))


def test_without_roots_there_are_no_files(roots: Path) -> None:
    with pytest.raises(UsageError, match="OMNI_FILE_ROOTS") as refused:
        allowed_place((roots / "root/a b.mp4").as_uri(), Settings(home=roots))
    assert refused.value.kind == "unsupported"


def test_objects_are_read_from_our_bucket_and_those_we_were_told() -> None:
    settings = settings_for(Path("/"))
    for bucket, key in (("media", "a b/ä?#%.mp4"), ("omni", "inbox/a.mp4"), ("omni", "keep/a/b")):
        assert allowed_place(object_uri(bucket, key), settings) == ObjectPlace(bucket, key)


def test_objects_of_jobs_are_no_sources() -> None:
    job = "0190f3a2-0000-7000-8000-000000000000"
    with pytest.raises(UsageError, match="belongs to a job"):
        allowed_place(f"s3://omni/keep/default/{job}/source/0", settings_for(Path("/")))
