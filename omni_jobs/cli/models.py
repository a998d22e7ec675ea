"""`omni-jobs model`: weights for our own engine, from the hub or out of a directory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_jobs.cli.examples import examples
from omni_jobs.cli.terminal import plain
from omni_jobs.cli.times import size
from omni_jobs.errors import Refused, Unavailable, UsageError

# Imported where they are used: `--help` must not wait for them.
if TYPE_CHECKING:
    from omni_jobs.models.add import Plan
    from omni_jobs.models.record import Record
    from omni_jobs.models.store import ModelStore
    from omni_jobs.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
HUB = "hf:"
OFFICIAL = "hf:nvidia/Nemotron-3-Nano-Omni-30B-A3B-Reasoning-FP8"
DIGITS = 12  # of a digest or a commit, for people


def add_to(app: typer.Typer) -> None:
    model = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Add, list and remove weights of the model for our own engine (OMNI_MODELS_DIR, else OMNI_HOME/models).",
        epilog=examples(f"omni-jobs model add {OFFICIAL}", "omni-jobs model list"),
    )
    model.command(
        "add",
        epilog=examples(
            f"omni-jobs model add {OFFICIAL} --dry-run",
            f"omni-jobs model add {OFFICIAL}@main --name omni-fp8",
            "omni-jobs model add /models/omni-fp8 --json",
        ),
    )(add)
    model.command("list", epilog=examples("omni-jobs model list", "omni-jobs model list --json"))(list_models)
    model.command("remove", epilog=examples("omni-jobs model remove omni-fp8"))(remove)
    app.add_typer(model, name="model")


def add(
    source: Annotated[
        str, typer.Argument(metavar="DIR|hf:ID[@REVISION]", help="A directory that is here, or a repository.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What to call it; default: as the source is called.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it is, how large, and whether it fits; add nothing.")
    ] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Fetch it although it does not fit on this card.")] = False,
    as_json: AsJson = False,
) -> None:
    """Get weights, and check that they are the model.

    From the hub: first their list, configuration and index, which say whether they fit on this card and on the disk;
    then tensors, tokenizer and templates, never code. What was interrupted goes on where it stopped when the same
    command is typed again. A directory is looked at and stays where it is.

    The token is that of HF_TOKEN or of `hf auth login`; HF_ENDPOINT names another hub.
    """
    from omni_jobs.cli.reach import read_settings
    from omni_jobs.models.add import name_of
    from omni_jobs.models.store import ModelStore

    settings = read_settings()
    store, name = ModelStore.of(settings), name or name_of(source)
    store.weights(name)  # a name that cannot be one is said before anything is asked
    if source.startswith(HUB):
        document, done = _from_hub(settings, store, source, name, dry_run=dry_run, anyway=anyway, quiet=as_json)
    else:
        document, done = _in_place(store, Path(source), name, dry_run=dry_run, quiet=as_json)
    if as_json:
        print(json.dumps(document, indent=2))
    elif done:
        print(f"whole       yes, digest {document['digest'][:DIGITS]}, at {plain(document['directory'])}")
        print(f"to use it   OMNI_MODEL={name}")


def list_models(as_json: AsJson = False) -> None:
    """List models: format, size, digest, whether all of it is here and whether it fits on this card."""
    from omni_jobs.cli.reach import read_settings
    from omni_jobs.models.store import ModelStore

    found = _listed(ModelStore.of(read_settings()))
    if as_json:
        print(json.dumps({"models": found}, indent=2))
        return
    from omni_jobs.cli.tables import print_table

    print_table(["name", "format", "size", "digest", "state", "fits", "source"], map(_row, found))


def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `omni-jobs model list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Delete a model that was fetched, or forget a directory; its files stay."""
    from omni_jobs.cli.reach import read_settings
    from omni_jobs.models.store import ModelStore

    store = ModelStore.of(read_settings())
    kept = store.remove(name)
    if as_json:
        print(json.dumps({"name": name, "removed": True, "kept": str(kept) if kept else None}))
    else:
        print(f"{name}: removed{f'; its files stay in {plain(str(kept))}' if kept else ''}")


def _from_hub(
    settings: "Settings", store: "ModelStore", source: str, name: str, *, dry_run: bool, anyway: bool, quiet: bool
) -> tuple[dict[str, Any], bool]:
    """The document, and whether the model is here."""
    from omni_jobs.models import add
    from omni_jobs.models.hub import Hub, source_of

    hub = Hub()
    plan = add.plan(hub, *source_of(source.removeprefix(HUB)))
    there = add.found_whole(store, name, plan)
    # What is here takes no room.
    to_come, free = (0, 0) if there else add.room(store, name, plan, None if dry_run else settings.min_free_bytes)
    if not quiet:
        for line in _plan_lines(plan, to_come, free):
            print(line, flush=True)
    if dry_run or there:
        document = _document(there or plan.record(store, name), plan.card)
        return {**document, "to_come_bytes": to_come}, there is not None
    if not (plan.card["fits"] or plan.card["name"] is None or anyway):
        raise Refused(f"{name}: does not fit on this card, {plan.card['name']}; --anyway fetches it all the same")
    return {**_document(_fetched(store, hub, name, plan), plan.card), "to_come_bytes": 0}, True


def _fetched(store: "ModelStore", hub: Any, name: str, plan: "Plan") -> "Record":
    from omni_jobs.cli.reach import say
    from omni_jobs.cli.transfer import transfer
    from omni_jobs.models import add

    try:
        with transfer(plan.size_bytes) as shown:
            return add.fetched(store, hub, name, plan, shown.moved)
    except KeyboardInterrupt:
        held = plan.record(store, name).held_bytes
        say(f"{size(held)} of {size(plan.size_bytes)} are here: the same command goes on from there")
        raise


def _in_place(
    store: "ModelStore", directory: Path, name: str, *, dry_run: bool, quiet: bool
) -> tuple[dict[str, Any], bool]:
    from omni_jobs.cli import checkpoint
    from omni_jobs.models import add

    if not directory.is_dir():
        raise UsageError(f"expected a directory or hf:OWNER/NAME, got {str(directory)!r}")
    report = checkpoint.examined(directory)
    if not quiet:
        for line in checkpoint.lines(report):
            print(line)
    record = add.registered(store, directory, name, report, dry_run=dry_run)
    return {**_document(record, report["card"]), "to_come_bytes": 0}, not dry_run


def _plan_lines(plan: "Plan", to_come: int, free: int) -> Iterator[str]:
    from omni_jobs.cli.checkpoint import card_lines

    repository = plan.repository
    yield f"repository  {repository.id} at {repository.commit[:DIGITS]}: {plan.format}"
    yield f"size        {size(plan.size_bytes)} in {len(plan.files)} files"
    yield from card_lines(plan.card)
    yield f"to fetch    {size(to_come)}{f', of {size(free)} free' if to_come else ''}"


def _listed(store: "ModelStore") -> list[dict[str, Any]]:
    from omni_jobs.models import facts

    records = [record for record in map(store.find, store.names()) if record is not None]
    try:
        known = facts.forecasts([(record.directory, record.weights_bytes) for record in records])
    except Unavailable:
        known = [{} for _ in records]
    return [_document(record, said.get("card")) for record, said in zip(records, known, strict=True)]


def _document(record: "Record", card: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "name": record.name,
        "source": record.source,
        "revision": record.revision,
        "directory": str(record.directory),
        "state": record.state.value,
        "format": record.format,
        "size_bytes": record.size_bytes,
        "held_bytes": record.held_bytes,
        "digest": record.digest,
        "files": [{"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in record.files],
        "card": card,
    }


def _row(one: dict[str, Any]) -> list[str]:
    digest, state = one["digest"][:DIGITS], one["state"]
    if state == "partial":
        state = f"partial, {size(one['held_bytes'])} here"
    return [one["name"], one["format"], size(one["size_bytes"]), digest, state, _fits(one["card"]), one["source"]]


def _fits(card: dict[str, Any] | None) -> str:
    if card is None:
        return "?"
    return f"{'yes' if card['fits'] else 'no'}{'' if card['name'] else ' (80 GB)'}"
