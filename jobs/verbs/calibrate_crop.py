"""`facemint calibrate-crop`: where a generator puts faces, so that a fixed crop can take the place of a detector."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.arguments import JsonOption, RecipeArgument, SetOption, print_json


def calibrate_crop(
    recipe: RecipeArgument,
    images: Annotated[int, typer.Option(min=20, max=100_000, help="How many pictures are looked at.")] = 200,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Measure once where a recipe's generator puts faces, with the recipe's own detector.

    What it prints goes into the recipe as align.detector: then every picture is cut at that place, none is searched for
    a face, and none is refused for having none. How far single faces lie from it is told.
    """
    from jobs import wiring

    facts = wiring.crop_points(wiring.load_recipe(recipe, set_ or []), images)
    if json_:
        print_json(facts)
        return
    points = ", ".join(f"[{x:.4f}, {y:.4f}]" for x, y in facts["detector"]["points"])
    typer.echo(f"{facts['found']:,} of {facts['images']:,} pictures have a face; its points lie {facts['spread']:.4f}")
    typer.echo("of the side from their usual place (root mean square). In the recipe:\n")
    typer.echo(f"align:\n  detector: {{use: fixed, points: [{points}]}}")
