"""Tenants and their shares: for the administrator, on the database itself. No request can do this."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_jobs.cli.examples import examples
from omni_jobs.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Engine

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
MOST_OPEN_JOBS = 2**31 - 1
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def add_to(app: typer.Typer) -> None:
    tenant = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Show and set the shares of tenants, on the database itself (OMNI_DATABASE_URL, else the embedded one).",
        epilog=examples("omni-jobs tenant list", "omni-jobs tenant set news --weight 3"),
    )
    tenant.command("list", epilog=examples("omni-jobs tenant list", "omni-jobs tenant list --json"))(list_tenants)
    tenant.command(
        "set",
        epilog=examples(
            "omni-jobs tenant set news --weight 3",
            "OMNI_DATABASE_URL=postgresql://omni@db/omni omni-jobs tenant set archive --max-open-jobs 500 --json",
        ),
    )(set_tenant)
    app.add_typer(tenant, name="tenant")


def list_tenants(as_json: AsJson = False) -> None:
    """List tenants: weight, most open jobs, open jobs now."""
    from omni_jobs.cli.tables import print_table
    from omni_jobs.store import tenants

    with _database() as db:
        found = tenants.shares(db)
    if as_json:
        print(json.dumps({"tenants": found}, indent=2))
        return
    print_table(
        ["tenant", "weight", "max open jobs", "open jobs"],
        [[one["tenant_id"], f"{one['weight']:g}", _limit(one), one["open_jobs"]] for one in found],
    )


def set_tenant(
    name: Annotated[str, typer.Argument(metavar="NAME", help="It need not have submitted anything yet.")],
    weight: Annotated[
        float | None, typer.Option("--weight", metavar="W", help="Its share of the pools against that of others.")
    ] = None,
    max_open_jobs: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_OPEN_JOBS, metavar="N", help="With so many open jobs it gets 429."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set the share of a tenant; what is not named stays."""
    from omni_jobs.store import tenants

    if not NAME.fullmatch(name):
        raise UsageError(f"expected a tenant such as news or news-archive_2, got {name!r}")
    if weight is None and max_open_jobs is None:
        raise UsageError("nothing to set: --weight or --max-open-jobs")
    if weight is not None and not (math.isfinite(weight) and weight > 0):
        raise UsageError(f"--weight: expected a number above 0, got {weight:g}")
    with _database() as db:
        found = tenants.update(db, name, weight=weight, max_open_jobs=max_open_jobs)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{found['tenant_id']}: weight {found['weight']:g}, max open jobs {_limit(found)}")


def _limit(tenant: dict[str, Any]) -> Any:
    return "default" if tenant["max_open_jobs"] is None else tenant["max_open_jobs"]


@contextmanager
def _database() -> "Iterator[Engine]":
    from omni_jobs.cli.reader import database_errors, owner_url
    from omni_jobs.store import open_database, schema

    with owner_url() as url, database_errors():
        db = open_database(url, size=1, application="omni-jobs tenant")
        try:
            schema.require(db)
            yield db
        finally:
            db.dispose()
