"""Adding a model: what it would be is said first (`plan`), then it is fetched (`fetched`) or registered in place."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omni_jobs.errors import Conflict, Damaged
from omni_jobs.models import choice, facts
from omni_jobs.models.fetch import Moved, NoRoom, disk_errors, fetch
from omni_jobs.models.hub import Hub, Repository
from omni_jobs.models.record import ModelFile, Record, State, held_bytes
from omni_jobs.models.store import ModelStore


@dataclass(frozen=True, slots=True)
class Plan:
    """What there is to fetch.

    Attributes:
        card: the card that is here and what fits on it, as the workers' survey says it.
    """

    repository: Repository
    files: tuple[ModelFile, ...]
    weights_bytes: int
    format: str
    card: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def record(self, store: ModelStore, name: str) -> Record:
        """What is written down before the first byte comes."""
        return Record(
            name=name,
            source=f"hf:{self.repository.id}",
            directory=store.weights(name),
            format=self.format,
            files=self.files,
            weights_bytes=self.weights_bytes,
            revision=self.repository.commit,
        )


def plan(hub: Hub, id: str, revision: str) -> Plan:
    """Asks the hub for the list of files and fetches the configuration and the index, nothing else.

    Raises:
        UsageError: it is not a checkpoint of our model.
        NotFound, Refused, Unavailable, Mismatch: as `Hub.repository` and `fetch`.
    """
    repository = hub.repository(id, revision)
    with TemporaryDirectory(prefix="omni-model-") as scratch:
        folder = Path(scratch)
        fetch(hub, repository, choice.heads(repository.files), folder, lambda count: None)
        index = (folder / choice.INDEX).read_bytes() if (folder / choice.INDEX).exists() else None
        files = choice.wanted(repository.files, index)
        weights_bytes = sum(file.size_bytes for file in choice.shards(repository.files, index))
        found = facts.forecast(folder, weights_bytes)
    return Plan(repository, files, weights_bytes, found["format"], found["card"])


def found_whole(store: ModelStore, name: str, plan: Plan) -> Record | None:
    """The model, if it is here already.

    Raises:
        Conflict: the name is another one's, or is at another revision.
    """
    there = store.find(name)
    if there is None:
        return None
    source, commit = f"hf:{plan.repository.id}", plan.repository.commit
    if there.source != source:
        raise Conflict(f"{name} is the name of {there.source}: add this one with --name")
    if there.whole and there.revision != commit:
        raise Conflict(
            f"{name} is here at revision {there.revision[:12]}, and {commit[:12]} was asked for:"
            f" `omni-jobs model remove {name}` first, or add it with --name"
        )
    return there if there.state is State.WHOLE else None


def room(store: ModelStore, name: str, plan: Plan, min_free_bytes: int | None) -> tuple[int, int]:
    """Bytes that are to come, and bytes that are free.

    Raises:
        NoRoom: with all of it less than `min_free_bytes` would be free; never, if that is None.
    """
    folder = store.weights(name)
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    needed = plan.size_bytes - held_bytes(folder, plan.files)
    if needed and min_free_bytes is not None and free - needed < min_free_bytes:
        raise NoRoom(
            f"{there}: {free:,} bytes free; {needed:,} are to come and {min_free_bytes:,} must stay free"
            " (OMNI_MIN_FREE_BYTES): make room, or set OMNI_MODELS_DIR to a larger disk"
        )
    return needed, free


def fetched(store: ModelStore, hub: Hub, name: str, plan: Plan, moved: Moved) -> Record:
    """Fetches what is missing, checks all of it, and only then marks the model as whole.

    Raises:
        Conflict: another process works on it.
        Damaged: every file came as the hub has it, and together they are not the model.
        HubDown, Mismatch, NoRoom, Refused, Unavailable: as `fetch`; what came is kept.
    """
    with store.locked(name), disk_errors(store.weights(name)):
        record = plan.record(store, name)
        store.write(record)
        record.directory.mkdir(exist_ok=True)
        _drop_others(record)
        record = replace(record, files=tuple(fetch(hub, plan.repository, plan.files, record.directory, moved)))
        found = facts.survey(record.directory)
        if not found["whole"]:
            raise Damaged(f"{name}: all files are as the hub has them, and are not the model: {_problems(found)}")
        record = replace(record, whole=True, digest=found["digest"], format=found["format"])
        store.write(record)
    return record


def registered(
    store: ModelStore, directory: Path, name: str, found: dict[str, Any], *, dry_run: bool = False
) -> Record:
    """Writes down a directory that stays where it is.

    Args:
        found: its survey.
        dry_run: writes nothing.

    Raises:
        Damaged: it is not whole.
        Conflict: the name is another one's.
        NoRoom, Refused: it cannot be written down.
    """
    if not found["whole"]:
        raise Damaged(f"{directory}: {_problems(found)}")
    directory = directory.expanduser().resolve()
    there = store.find(name)
    if there is not None and there.source != str(directory):
        raise Conflict(f"{name} is the name of {there.source}: add this one with --name")
    record = Record(
        name=name,
        source=str(directory),
        directory=directory,
        format=found["format"],
        files=tuple(_files(directory)),
        weights_bytes=found["size_bytes"],
        whole=True,
        digest=found["digest"],
    )
    if not dry_run:
        with store.locked(name), disk_errors(store.root):
            store.write(record)
    return record


def name_of(source: str) -> str:
    """What a model is called where no name is given: as its repository or folder is."""
    if source.startswith("hf:"):
        return source.removeprefix("hf:").partition("@")[0].rpartition("/")[2]
    path = Path(source).expanduser().absolute()
    # In the hub's own cache the folder of a model is called by its commit.
    cached = path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--")
    return path.parent.parent.name.rpartition("--")[2] if cached else path.name


def _files(directory: Path) -> list[ModelFile]:
    paths = sorted(path for path in directory.iterdir() if path.suffix in (".json", ".jinja", ".safetensors"))
    return [ModelFile(path.name, path.stat().st_size) for path in paths if path.is_file()]


def _drop_others(record: Record) -> None:
    """What an earlier plan, of another revision, left."""
    ours = {file.name for file in record.files}
    for path in record.directory.iterdir():
        if path.name.removesuffix(".part") not in ours and path.is_file():
            path.unlink()


def _problems(found: dict[str, Any]) -> str:
    return "; ".join(found["summary"])
