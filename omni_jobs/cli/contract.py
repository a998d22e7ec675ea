"""What others build on: the schema of a result, the description of the API."""

import json

import typer

from omni_jobs.cli.examples import examples


def add_to(app: typer.Typer) -> None:
    app.command(epilog=examples("omni-jobs schema > result.schema.json"))(schema)
    app.command(epilog=examples("omni-jobs openapi > openapi.json"))(openapi)


def schema() -> None:
    """Print the JSON Schema of result.json."""
    from omni_jobs.result import json_schema

    print(json.dumps(json_schema(), indent=2))


def openapi() -> None:
    """Print the OpenAPI description of the API."""
    from omni_jobs.api.app import create_app
    from omni_jobs.cli.reach import read_settings

    print(json.dumps(create_app(read_settings()).openapi(), indent=2))
