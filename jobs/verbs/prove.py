"""`facemint prove`: an image's whole lineage, each step checked."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, UriArgument, print_json


def prove(
    uri: UriArgument,
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="An image's key, i00000012-s0007-a02; refused ones too.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="FILE", help="Instead of KEY: an exported image, found by its bytes."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show an image's whole lineage, each step checked against digests.

    The versions that hold it, its bytes, what was asked and measured, every verdict, the random keys, its identity, the
    models, the recipe, who made it when. Exit status 7 where a link is broken.
    """
    from jobs import show_prove, wiring

    facts = wiring.prove_image(uri, key, file)
    print_json(facts) if json_ else show_prove.print_proof(facts)
    if not facts["ok"]:
        raise typer.Exit(7)
