"""Arguments and options that several verbs share, and how a verb prints JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")]
UriArgument = Annotated[
    str, typer.Argument(metavar="URI", help="Where the dataset lies: a folder, s3://bucket/set, or another address.")
]
OutOption = Annotated[
    str, typer.Option("--out", metavar="URI", help="Where to write: a folder, s3://bucket/set, or another address.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=VALUE", help="Override one recipe key; repeat for more."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]

ExecutorOption = Annotated[str | None, typer.Option("--executor", help="ray or inline; default as the recipe says.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", help="Workers; default one per CPU.")]
AddressOption = Annotated[str | None, typer.Option("--address", help="A running Ray cluster; default: start Ray here.")]


def compute_overrides(executor: str | None, workers: int | None, address: str | None) -> list[str]:
    """Return what was given of where to run, as overrides of a recipe's `compute`."""
    given = {"executor": executor, "workers": workers, "address": address}
    return [f"compute.{key}={value}" for key, value in given.items() if value is not None]


def print_json(value: Any) -> None:
    """Print one JSON object, its keys sorted."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True))
