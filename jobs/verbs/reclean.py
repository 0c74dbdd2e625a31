"""`facemint reclean`: a curated dataset cleaned again by another recogniser, as a new version."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, UriArgument, print_json


def reclean(
    uri: UriArgument,
    by: Annotated[
        str, typer.Option("--by", metavar="NAME", help="A recogniser that `facemint measure --add` has added.")
    ],
    link_cos: Annotated[
        float | None, typer.Option(min=-1.0, max=1.0, help="Image against image; default: the recipe's rate.")
    ] = None,
    keep_cos: Annotated[
        float | None, typer.Option(min=-1.0, max=1.0, help="Image against template; default: the recipe's rate.")
    ] = None,
    same_cos: Annotated[
        float | None, typer.Option(min=-1.0, max=1.0, help="Template against template: pairs that are reported.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and write nothing.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Clean the newest version, and make anew what stands of this recogniser.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Leave out what another recogniser does not take for its person, and publish the rest as a new version.

    Labels never change, and nobody is merged: pairs of people that it takes for one are reported. What was left out
    comes back with `facemint refilter`.
    """
    from jobs import show, show_reclean, wiring

    levels = {"link_cos": link_cos, "keep_cos": keep_cos, "same_cos": same_cos}
    if dry_run:
        facts = wiring.reclean_dry(uri, by, levels)
        print_json(facts) if json_ else show_reclean.print_found(facts)
        return
    from pipeline.execute.stop import Stop, on_signals

    with on_signals(Stop()) as stop, show.observer(quiet=json_, title=f"reclean {uri}") as view:
        facts, published = wiring.reclean_dataset(uri, by, levels, view, stop=stop, replace=replace)
    if json_:
        print_json({**show.published_json(published, uri), "reclean": facts})
        return
    show_reclean.print_found(facts)
    show_reclean.print_published(published, uri, view)
