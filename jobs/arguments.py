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


def print_json(value: Any) -> None:
    """Print one JSON object, its keys sorted."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True))
