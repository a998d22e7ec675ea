"""The models of this machine, by name.

    NAME/record.json   what it is; replaced as a whole, so `whole` is true or it is not
    NAME/weights/      its files; `*.part` are under way. Empty where the model lies in a directory of its owner
    NAME/lock          held by the one process that changes it

Not the hub's own cache: that is other tools' to prune, says nothing about who finished what, and lies on another disk
than OMNI_HOME, whose room we watch.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omni_jobs.errors import Conflict, Damaged, NotFound, Refused, UsageError
from omni_jobs.models.record import Record, State

# Pydantic comes with it, and `--help` must not wait.
if TYPE_CHECKING:
    from omni_jobs.settings import Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
HOW = "`omni-jobs model add hf:OWNER/NAME` (or a directory) adds one, `omni-jobs model list` shows them"


class NoModel(NotFound):
    """Nothing of that name or place."""


class NotWhole(Refused):
    """Some of it is still to come."""


class Changed(Damaged):
    """It was whole, and is not what it was."""


class ModelStore:
    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def of(cls, settings: "Settings") -> "ModelStore":
        root = settings.models_dir or settings.home / "models"
        return cls(root.expanduser().absolute())

    def weights(self, name: str) -> Path:
        return self.root / _checked(name) / "weights"

    def names(self) -> list[str]:
        try:
            return sorted(path.name for path in self.root.iterdir() if (path / "record.json").is_file())
        except FileNotFoundError:
            return []

    def find(self, name: str) -> Record | None:
        """
        Raises:
            Damaged: its record cannot be read.
        """
        from pydantic import TypeAdapter, ValidationError

        path = self.root / _checked(name) / "record.json"
        try:
            return TypeAdapter(Record).validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValidationError as error:
            raise Damaged(f"{path}: not a record of ours; `omni-jobs model remove {name}` clears it away") from error

    def write(self, record: Record) -> None:
        """Replaces the record; it is safe on disk when this returns."""
        from pydantic import TypeAdapter

        text = TypeAdapter(Record).dump_json(record, indent=2)
        folder = self.root / record.name
        descriptor, draft = tempfile.mkstemp(dir=folder, prefix=".record.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text + b"\n")
                file.flush()
                os.fsync(descriptor)
            os.replace(draft, folder / "record.json")
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        sync_folder(folder)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Holds the model for one process; the kernel lets go of it however that ends.

        Raises:
            Conflict: another process holds it.
            Refused: its folder cannot be made.
        """
        folder = self.root / _checked(name)
        try:
            self.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Refused(f"{folder}: cannot be used for models: {error.strerror}; set OMNI_MODELS_DIR") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(f"{name}: another `omni-jobs model` works on it") from error
            try:
                yield
            finally:
                self._tidy(folder)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> Path | None:
        """Deletes the record and what we fetched; a directory that was registered keeps its files, and is returned.

        Raises:
            NoModel: no such name.
            Conflict: it is being fetched.
        """
        folder = self.root / _checked(name)
        if not (folder / "record.json").is_file():
            raise NoModel(f"no model {name!r} here: `omni-jobs model list` shows those that are")
        with self.locked(name):
            kept = self._disowned(name)
            if (folder / "weights").is_dir():
                shutil.rmtree(folder / "weights")
            (folder / "record.json").unlink()
        return kept

    def _disowned(self, name: str) -> Path | None:
        """If the deletion breaks off, what is left of it is never taken for the model."""
        try:
            record = self.find(name)
        except Damaged:
            return None
        if record is None:
            return None
        self.write(replace(record, whole=False))
        return None if record.directory == self.weights(name) else record.directory

    def _tidy(self, folder: Path) -> None:
        """Nothing is left behind where nothing was added."""
        if not (folder / "record.json").exists() and not (folder / "weights").exists():
            shutil.rmtree(folder, ignore_errors=True)


def resolve_model(settings: "Settings") -> Path:
    """The directory of the checkpoint that OMNI_MODEL names: a model of ours, or else a directory.

    Raises:
        NoModel: it is not set, or nothing bears that name.
        NotWhole: some of it is still to come, or is not the model.
        Changed: a file is gone or has another size than when it was added.
    """
    named = settings.model
    if not named:
        raise NoModel(f"no model is named: set OMNI_MODEL to a name or a directory; {HOW}")
    store = ModelStore.of(settings)
    record = store.find(named) if NAME.fullmatch(named) else None
    if record is not None:
        return _usable(record)
    path = Path(named).expanduser().absolute()
    if not (path / "config.json").is_file():
        came = "a directory without config.json" if path.is_dir() else "neither a model of that name nor a directory"
        raise NoModel(f"OMNI_MODEL={named}: {came}; {HOW}")
    return path


def _usable(record: Record) -> Path:
    again = f"`omni-jobs model add {record.source}`"
    match record.state:
        case State.PARTIAL:
            here = f"{record.held_bytes:,} of {record.size_bytes:,} bytes are here"
            raise NotWhole(f"{record.name}: not whole ({here}): {again} fetches the rest and checks it")
        case State.CHANGED:
            raise Changed(f"{record.name}: not as it was added ({next(record.changes())}): {again} adds it again")
        case State.WHOLE:
            return record.directory


def sync_folder(folder: Path) -> None:
    """The names in it are safe on disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UsageError(f"expected a name of letters, digits, '.', '_' and '-' such as omni-fp8, got {name!r}")
    return name
