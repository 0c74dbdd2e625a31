"""`facemint split`: divides a dataset's identities into parts, such as train, val and test."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, UriArgument, print_json
from pipeline.domain.errors import UserError


def split(
    uri: UriArgument,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the split is called.")],
    parts: Annotated[
        str | None,
        typer.Option("--parts", metavar="NAME=SHARE,...", help="For instance train=0.8,val=0.1,test=0.1."),
    ] = None,
    fold: Annotated[
        int | None, typer.Option("--fold", metavar="K", help="K equal parts instead: fold-0 and on.")
    ] = None,
    by_cell: Annotated[
        bool, typer.Option("--by-cell", help="Divide every cell as asked, give or take less than one identity.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Divide a dataset by identity: a person, with all images and twins, is in one part alone.

    Who is where follows from the run's seed, the split's name and the identity, so a dataset that has grown is divided
    by the same command again, and nobody changes sides. `facemint export --split NAME` reads it.
    """
    from jobs import show_sets, wiring
    from pipeline.domain import splits

    splits.require_name(name)
    if (parts is None) == (fold is None):
        raise UserError("give --parts NAME=SHARE,... or --fold K, one of the two")
    asked = splits.parse_parts(parts) if parts is not None else splits.folds(fold or 0)
    facts = wiring.split_dataset(uri, name, asked, by_cell=by_cell)
    print_json(facts) if json_ else show_sets.print_split(facts)
