"""What a URL may name."""

from pathlib import Path

import pytest

from omni_jobs.errors import UsageError
from workers.serving.errors import TooLarge
from workers.serving.sources import Sources


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "root" / "in" / "a b.txt").write_text("inside")
    (tmp_path / "secret.txt").write_text("outside")
    (tmp_path / "root" / "out").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "root" / "folder").symlink_to(tmp_path)
    (tmp_path / "root" / "near").symlink_to(tmp_path / "root" / "in" / "a b.txt")
    return tmp_path / "root"


def test_files_below_the_root_are_read(root: Path) -> None:
    for path in (root / "in" / "a b.txt", root / "near"):
        with Sources([root]).open(path.as_uri()) as file:
            assert file.read() == b"inside"


@pytest.mark.parametrize("path", ["out", "folder/secret.txt", "../secret.txt", "in/../../secret.txt", "../none.txt"])
def test_nothing_outside_is_even_told_apart(root: Path, path: str) -> None:
    with pytest.raises(UsageError, match="does not lie below"):
        Sources([root]).open(f"file://{root}/{path}")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file://host/etc/passwd", "expected file:///PATH"),
        ("file:etc", "expected file:///PATH"),
        ("file://[x/y", "expected file:///PATH"),
        ("file:///\ud800", "expected file:///PATH"),
        ("file:///a%00b", "expected file:///PATH"),
        ("http://localhost/a", "fetches nothing"),
        ("ftp://x/y", "data: or file:"),
        ("data:image/png", "expected data:TYPE"),
        ("data:;base64,a", "expected base64"),
    ],
)
def test_other_urls_are_refused(root: Path, url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Sources([root]).open(url)


def test_folders_and_missing_files(root: Path) -> None:
    for name, says in (("in", "regular file"), ("gone", "No such file")):
        with pytest.raises(UsageError, match=says):
            Sources([root]).open((root / name).as_uri())
    with pytest.raises(UsageError, match="reads no files"):
        Sources().open((root / "near").as_uri())


def test_data_is_decoded_within_a_limit() -> None:
    with Sources().open("data:text/plain;charset=utf-8;base64,aGk=") as file:
        file.seek(0)
        assert file.read() == b"hi"
    with pytest.raises(TooLarge):
        Sources(most_bytes=10).open("data:;base64," + "AAAA" * 5)
