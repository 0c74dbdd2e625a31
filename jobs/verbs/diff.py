"""`facemint diff`: what differs between two datasets, or two versions of one."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, print_json

DIFFERENT = 4
"""The exit status that --exit-code asks for where something differs."""


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A dataset: its newest version, or URI@v000001 for another.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What it is compared with.")],
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with status 4 where something differs; else it is 0 either way.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Say what differs between two versions: recipe, counts, balance, figures, models, refusals, people and images.

    An image has changed where its key stayed and its bytes did not. Nothing is written.
    """
    from jobs import show_sets, wiring

    facts = wiring.diff_datasets(a, b)
    print_json(facts) if json_ else show_sets.print_diff(facts)
    if exit_code and not facts["equal"]:
        raise typer.Exit(DIFFERENT)
